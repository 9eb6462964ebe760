// Kernels of plans/depthwise-and-1x1.txt.

#ifdef cl_khr_fp16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#endif
#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
#define LOAD(type, p) (*(__global const type*)(p))
#define STORE(type, p, value) (*(__global type*)(p) = (value))

__kernel void conv_depthwise_0_kernel(__global float* restrict weight, __global float* restrict x, __global float* restrict y) {
  const int blockIdx_x = get_group_id(0);
  const int threadIdx_x = get_local_id(0);
  float4 kept;
  float4 kept_1;
  float4 kept_2;
  float4 kept_3;
  int cse_v1 = (threadIdx_x & 3);
  int cse_v2 = (threadIdx_x >> 2);
  kept = (float4)(0.0f);
  kept_1 = (float4)(0.0f);
  kept_2 = (float4)(0.0f);
  kept_3 = (float4)(0.0f);
  int v = cse_v1 - 1;
  int cse_v3 = threadIdx_x * 16;
  int cse_v8 = max(1 - cse_v1, 0);
  for (int v_1 = 0; v_1 < min(3, 5 - cse_v1) - cse_v8; ++v_1) {
    int v_2 = cse_v8 + v_1 + cse_v1 - 1;
    int cse_v9 = cse_v2 * 36 + cse_v8 * 12 + v_1 * 12;
    float4 v_3 = LOAD(float4, weight + cse_v9);
    float4 v_4 = (float4)(0.0f);
    kept = kept + v_3 * v_4;
    int cse_v10 = cse_v8 * 16 + v_1 * 16 + cse_v3;
    float4 v_5 = LOAD(float4, x + cse_v10 - 16);
    kept_1 = kept_1 + v_3 * v_5;
    float4 v_6 = LOAD(float4, x + cse_v10 - 12);
    kept_2 = kept_2 + v_3 * v_6;
    float4 v_7 = LOAD(float4, x + cse_v10 - 8);
    kept_3 = kept_3 + v_3 * v_7;
    float4 v_8 = LOAD(float4, weight + cse_v9 + 4);
    kept = kept + v_8 * v_5;
    kept_1 = kept_1 + v_8 * v_6;
    kept_2 = kept_2 + v_8 * v_7;
    float4 v_9 = LOAD(float4, x + cse_v10 - 4);
    kept_3 = kept_3 + v_8 * v_9;
    float4 v_10 = LOAD(float4, weight + cse_v9 + 8);
    kept = kept + v_10 * v_6;
    kept_1 = kept_1 + v_10 * v_7;
    kept_2 = kept_2 + v_10 * v_9;
    kept_3 = kept_3 + v_10 * v_4;
  }
  float4 v_11 = kept;
  float4 cse_v4 = max(v_11, (float4)(0.0f));
  STORE(float4, y + cse_v3, cse_v4);
  float4 v_12 = kept_1;
  float4 cse_v5 = max(v_12, (float4)(0.0f));
  STORE(float4, y + cse_v3 + 4, cse_v5);
  float4 v_13 = kept_2;
  float4 cse_v6 = max(v_13, (float4)(0.0f));
  STORE(float4, y + cse_v3 + 8, cse_v6);
  float4 v_14 = kept_3;
  float4 cse_v7 = max(v_14, (float4)(0.0f));
  STORE(float4, y + cse_v3 + 12, cse_v7);
}

__kernel void conv_1x1_1_kernel(__global float* restrict buffer, __global float* restrict buffer_1, __global float* restrict weight) {
  const int blockIdx_x = get_group_id(0);
  const int threadIdx_x = get_local_id(0);
  float4 kept;
  float4 kept_1;
  float4 kept_2;
  float4 kept_3;
  float4 kept_4;
  float4 kept_5;
  int cse_v1 = threadIdx_x * 6;
  kept = (float4)(0.0f);
  kept_1 = (float4)(0.0f);
  kept_2 = (float4)(0.0f);
  kept_3 = (float4)(0.0f);
  kept_4 = (float4)(0.0f);
  kept_5 = (float4)(0.0f);
  int cse_v3 = threadIdx_x * 24;
  for (int v = 0; v < 2; ++v) {
    int cse_v2 = v * 64;
    int cse_v5 = cse_v2 + cse_v3;
    float4 v_1 = LOAD(float4, buffer + cse_v5);
    float4 v_2 = (float4)(v_1.s0);
    float4 v_3 = (float4)(v_1.s1);
    float4 v_4 = (float4)(v_1.s2);
    float4 v_5 = (float4)(v_1.s3);
    int v_6 = cse_v1 + 1;
    float4 v_7 = LOAD(float4, buffer + cse_v5 + 4);
    float4 v_8 = (float4)(v_7.s0);
    float4 v_9 = (float4)(v_7.s1);
    float4 v_10 = (float4)(v_7.s2);
    float4 v_11 = (float4)(v_7.s3);
    int v_12 = cse_v1 + 2;
    float4 v_13 = LOAD(float4, buffer + cse_v5 + 8);
    float4 v_14 = (float4)(v_13.s0);
    float4 v_15 = (float4)(v_13.s1);
    float4 v_16 = (float4)(v_13.s2);
    float4 v_17 = (float4)(v_13.s3);
    int v_18 = cse_v1 + 3;
    float4 v_19 = LOAD(float4, buffer + cse_v5 + 12);
    float4 v_20 = (float4)(v_19.s0);
    float4 v_21 = (float4)(v_19.s1);
    float4 v_22 = (float4)(v_19.s2);
    float4 v_23 = (float4)(v_19.s3);
    int cse_v6 = min(cse_v1 + 4, 15);
    float4 v_24 = LOAD(float4, buffer + cse_v2 + cse_v6 * 4);
    float4 v_25 = (float4)(v_24.s0);
    float4 v_26 = (float4)(v_24.s1);
    float4 v_27 = (float4)(v_24.s2);
    float4 v_28 = (float4)(v_24.s3);
    int cse_v7 = min(cse_v1 + 5, 15);
    float4 v_29 = LOAD(float4, buffer + cse_v2 + cse_v7 * 4);
    float4 v_30 = (float4)(v_29.s0);
    float4 v_31 = (float4)(v_29.s1);
    float4 v_32 = (float4)(v_29.s2);
    float4 v_33 = (float4)(v_29.s3);
    int cse_v4 = v * 16;
    float4 v_34 = LOAD(float4, weight + cse_v4);
    kept = kept + v_34 * v_2;
    kept_1 = kept_1 + v_34 * v_8;
    kept_2 = kept_2 + v_34 * v_14;
    kept_3 = kept_3 + v_34 * v_20;
    kept_4 = kept_4 + v_34 * v_25;
    kept_5 = kept_5 + v_34 * v_30;
    float4 v_35 = LOAD(float4, weight + cse_v4 + 4);
    kept = kept + v_35 * v_3;
    kept_1 = kept_1 + v_35 * v_9;
    kept_2 = kept_2 + v_35 * v_15;
    kept_3 = kept_3 + v_35 * v_21;
    kept_4 = kept_4 + v_35 * v_26;
    kept_5 = kept_5 + v_35 * v_31;
    float4 v_36 = LOAD(float4, weight + cse_v4 + 8);
    kept = kept + v_36 * v_4;
    kept_1 = kept_1 + v_36 * v_10;
    kept_2 = kept_2 + v_36 * v_16;
    kept_3 = kept_3 + v_36 * v_22;
    kept_4 = kept_4 + v_36 * v_27;
    kept_5 = kept_5 + v_36 * v_32;
    float4 v_37 = LOAD(float4, weight + cse_v4 + 12);
    kept = kept + v_37 * v_5;
    kept_1 = kept_1 + v_37 * v_11;
    kept_2 = kept_2 + v_37 * v_17;
    kept_3 = kept_3 + v_37 * v_23;
    kept_4 = kept_4 + v_37 * v_28;
    kept_5 = kept_5 + v_37 * v_33;
  }
  float4 v_38 = kept;
  STORE(float4, buffer_1 + cse_v3, v_38);
  float4 v_39 = kept_1;
  STORE(float4, buffer_1 + cse_v3 + 4, v_39);
  float4 v_40 = kept_2;
  STORE(float4, buffer_1 + cse_v3 + 8, v_40);
  float4 v_41 = kept_3;
  STORE(float4, buffer_1 + cse_v3 + 12, v_41);
  if (threadIdx_x < 2) {
    float4 v_42 = kept_4;
    STORE(float4, buffer_1 + cse_v3 + 16, v_42);
  }
  if (threadIdx_x < 2) {
    float4 v_43 = kept_5;
    STORE(float4, buffer_1 + cse_v3 + 20, v_43);
  }
}

__kernel void pack_kernel(__global float* restrict pack, __global float* restrict x) {
  const long blockIdx_x = get_group_id(0);
  const int threadIdx_x = get_local_id(0);
  if (threadIdx_x < 128) {
    pack[threadIdx_x] = x[(threadIdx_x >> 6) * 64 + (threadIdx_x & 3) * 16 + ((threadIdx_x & 63) >> 2)];
  }
}

__kernel void unpack_kernel(__global float* restrict lv2, __global float* restrict unpack) {
  const long blockIdx_x = get_group_id(0);
  const int threadIdx_x = get_local_id(0);
  if (threadIdx_x < 64) {
    unpack[threadIdx_x] = lv2[(threadIdx_x & 15) * 4 + (threadIdx_x >> 4)];
  }
}
