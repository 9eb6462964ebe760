// Kernels of plans/residual-swish.txt.

#ifdef cl_khr_fp16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#endif
#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif
#define LOAD(type, p) (*(__global const type*)(p))
#define STORE(type, p, value) (*(__global type*)(p) = (value))

__kernel void conv_1x1_0_kernel(__global float* restrict buffer, __global float* restrict buffer_1, __global float* restrict buffer_2, __global float* restrict channel0, __global float* restrict weight) {
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
  int cse_v2 = threadIdx_x * 24;
  float4 v = LOAD(float4, buffer + cse_v2);
  float4 v_1 = (float4)(v.s0);
  float4 v_2 = (float4)(v.s1);
  float4 v_3 = (float4)(v.s2);
  float4 v_4 = (float4)(v.s3);
  int v_5 = cse_v1 + 1;
  int cse_v9 = cse_v2 + 4;
  float4 v_6 = LOAD(float4, buffer + cse_v9);
  float4 v_7 = (float4)(v_6.s0);
  float4 v_8 = (float4)(v_6.s1);
  float4 v_9 = (float4)(v_6.s2);
  float4 v_10 = (float4)(v_6.s3);
  int v_11 = cse_v1 + 2;
  int cse_v10 = cse_v2 + 8;
  float4 v_12 = LOAD(float4, buffer + cse_v10);
  float4 v_13 = (float4)(v_12.s0);
  float4 v_14 = (float4)(v_12.s1);
  float4 v_15 = (float4)(v_12.s2);
  float4 v_16 = (float4)(v_12.s3);
  int v_17 = cse_v1 + 3;
  int cse_v11 = cse_v2 + 12;
  float4 v_18 = LOAD(float4, buffer + cse_v11);
  float4 v_19 = (float4)(v_18.s0);
  float4 v_20 = (float4)(v_18.s1);
  float4 v_21 = (float4)(v_18.s2);
  float4 v_22 = (float4)(v_18.s3);
  int cse_v14 = min(cse_v1 + 4, 15);
  float4 v_23 = LOAD(float4, buffer + cse_v14 * 4);
  float4 v_24 = (float4)(v_23.s0);
  float4 v_25 = (float4)(v_23.s1);
  float4 v_26 = (float4)(v_23.s2);
  float4 v_27 = (float4)(v_23.s3);
  int cse_v15 = min(cse_v1 + 5, 15);
  float4 v_28 = LOAD(float4, buffer + cse_v15 * 4);
  float4 v_29 = (float4)(v_28.s0);
  float4 v_30 = (float4)(v_28.s1);
  float4 v_31 = (float4)(v_28.s2);
  float4 v_32 = (float4)(v_28.s3);
  float4 v_33 = LOAD(float4, weight + 0);
  kept = kept + v_33 * v_1;
  kept_1 = kept_1 + v_33 * v_7;
  kept_2 = kept_2 + v_33 * v_13;
  kept_3 = kept_3 + v_33 * v_19;
  kept_4 = kept_4 + v_33 * v_24;
  kept_5 = kept_5 + v_33 * v_29;
  float4 v_34 = LOAD(float4, weight + 4);
  kept = kept + v_34 * v_2;
  kept_1 = kept_1 + v_34 * v_8;
  kept_2 = kept_2 + v_34 * v_14;
  kept_3 = kept_3 + v_34 * v_20;
  kept_4 = kept_4 + v_34 * v_25;
  kept_5 = kept_5 + v_34 * v_30;
  float4 v_35 = LOAD(float4, weight + 8);
  kept = kept + v_35 * v_3;
  kept_1 = kept_1 + v_35 * v_9;
  kept_2 = kept_2 + v_35 * v_15;
  kept_3 = kept_3 + v_35 * v_21;
  kept_4 = kept_4 + v_35 * v_26;
  kept_5 = kept_5 + v_35 * v_31;
  float4 v_36 = LOAD(float4, weight + 12);
  kept = kept + v_36 * v_4;
  kept_1 = kept_1 + v_36 * v_10;
  kept_2 = kept_2 + v_36 * v_16;
  kept_3 = kept_3 + v_36 * v_22;
  kept_4 = kept_4 + v_36 * v_27;
  kept_5 = kept_5 + v_36 * v_32;
  float4 v_37 = kept;
  float4 v_38 = v_37 + LOAD(float4, channel0 + 0);
  float4 cse_v3 = (float4)(0.0f) - v_38;
  float4 v_39 = (float4)(1.0f) / ((float4)(1.0f) + exp(cse_v3));
  float4 v_40 = v_38 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v3)));
  float4 v_41 = v_38 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v3))) + LOAD(float4, buffer_1 + cse_v2);
  STORE(float4, buffer_2 + cse_v2, v_41);
  float4 v_42 = kept_1;
  float4 v_43 = v_42 + LOAD(float4, channel0 + 0);
  float4 cse_v4 = (float4)(0.0f) - v_43;
  float4 v_44 = (float4)(1.0f) / ((float4)(1.0f) + exp(cse_v4));
  float4 v_45 = v_43 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v4)));
  float4 v_46 = v_43 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v4))) + LOAD(float4, buffer_1 + cse_v9);
  STORE(float4, buffer_2 + cse_v9, v_46);
  float4 v_47 = kept_2;
  float4 v_48 = v_47 + LOAD(float4, channel0 + 0);
  float4 cse_v5 = (float4)(0.0f) - v_48;
  float4 v_49 = (float4)(1.0f) / ((float4)(1.0f) + exp(cse_v5));
  float4 v_50 = v_48 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v5)));
  float4 v_51 = v_48 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v5))) + LOAD(float4, buffer_1 + cse_v10);
  STORE(float4, buffer_2 + cse_v10, v_51);
  float4 v_52 = kept_3;
  float4 v_53 = v_52 + LOAD(float4, channel0 + 0);
  float4 cse_v6 = (float4)(0.0f) - v_53;
  float4 v_54 = (float4)(1.0f) / ((float4)(1.0f) + exp(cse_v6));
  float4 v_55 = v_53 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v6)));
  float4 v_56 = v_53 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v6))) + LOAD(float4, buffer_1 + cse_v11);
  STORE(float4, buffer_2 + cse_v11, v_56);
  if (threadIdx_x < 2) {
    float4 v_57 = kept_4;
    float4 v_58 = v_57 + LOAD(float4, channel0 + 0);
    float4 cse_v7 = (float4)(0.0f) - v_58;
    float4 v_59 = (float4)(1.0f) / ((float4)(1.0f) + exp(cse_v7));
    float4 v_60 = v_58 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v7)));
    int cse_v12 = cse_v2 + 16;
    float4 v_61 = v_58 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v7))) + LOAD(float4, buffer_1 + cse_v12);
    STORE(float4, buffer_2 + cse_v12, v_61);
  }
  if (threadIdx_x < 2) {
    float4 v_62 = kept_5;
    float4 v_63 = v_62 + LOAD(float4, channel0 + 0);
    float4 cse_v8 = (float4)(0.0f) - v_63;
    float4 v_64 = (float4)(1.0f) / ((float4)(1.0f) + exp(cse_v8));
    float4 v_65 = v_63 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v8)));
    int cse_v13 = cse_v2 + 20;
    float4 v_66 = v_63 * ((float4)(1.0f) / ((float4)(1.0f) + exp(cse_v8))) + LOAD(float4, buffer_1 + cse_v13);
    STORE(float4, buffer_2 + cse_v13, v_66);
  }
}

__kernel void pack_kernel(__global float* restrict pack, __global float* restrict x) {
  const long blockIdx_x = get_group_id(0);
  const int threadIdx_x = get_local_id(0);
  if (threadIdx_x < 64) {
    pack[threadIdx_x] = x[(threadIdx_x & 3) * 16 + (threadIdx_x >> 2)];
  }
}

__kernel void unpack_kernel(__global float* restrict lv1, __global float* restrict unpack) {
  const long blockIdx_x = get_group_id(0);
  const int threadIdx_x = get_local_id(0);
  if (threadIdx_x < 64) {
    unpack[threadIdx_x] = lv1[(threadIdx_x & 15) * 4 + (threadIdx_x >> 4)];
  }
}
