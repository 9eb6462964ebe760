// Kernels of plans/depthwise-and-1x1.txt.

#define LOAD4(p) (*(__global const float4*)(p))
#define STORE4(value, zero, p) (*(__global float4*)(p) = (value))
#define LOAD_HALF(x) vload_half(0, &(x))
#define STORE_HALF(value, x) vstore_half_rte(value, 0, &(x))
#define LOAD_HALF4(p) vloada_half4(0, p)
#define STORE_HALF4(value, zero, p) vstorea_half4_rte(value, zero, p)
#define LOAD_AS_HALF4(p) (*(__global const half4*)(p))
#define READ4(image, at) read_imagef(image, (at) >> 2)
#define READ_AS_HALF4(image, at) read_imageh(image, (at) >> 2)

// Function: conv_depthwise_0_kernel
__kernel void conv_depthwise_0_kernel(__global float* restrict weight_ptr, __global float* restrict x_ptr, __global float* restrict y_ptr) {
  float4 _ptr[1];
  float4 _ptr_1[1];
  float4 _ptr_2[1];
  float4 _ptr_3[1];
  int v = 0;
  int cse_v1 = ((convert_int(get_local_id(0))) & 3);
  int v_1 = ((convert_int(get_local_id(0))) & 3);
  int cse_v2 = ((convert_int(get_local_id(0))) >> 2);
  int v_2 = ((convert_int(get_local_id(0))) >> 2);
  int v_3 = 0;
  int v_4 = 0;
  _ptr[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  _ptr_1[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  _ptr_2[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  _ptr_3[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  int v_5 = (((convert_int(get_local_id(0))) & 3) - 1);
  int cse_v3 = ((convert_int(get_local_id(0))) * 16);
  int cse_v8 = max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3)));
  for (int v_6 = 0; v_6 < (min((int)3, (int)(5 - ((convert_int(get_local_id(0))) & 3))) - max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3)))); ++v_6) {
    int v_7 = (((max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) + v_6) + ((convert_int(get_local_id(0))) & 3)) - 1);
    int cse_v9 = (((((convert_int(get_local_id(0))) >> 2) * 36) + (max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) * 12)) + (v_6 * 12));
    float4 v_8 = LOAD4( weight_ptr + (((((convert_int(get_local_id(0))) >> 2) * 36) + (max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) * 12)) + (v_6 * 12)));
    int v_9 = 0;
    float4 v_10 = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
    _ptr[0] = (_ptr[0] + (v_8 * ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f))));
    int v_11 = 0;
    int cse_v10 = (((max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) * 16) + (v_6 * 16)) + ((convert_int(get_local_id(0))) * 16));
    float4 v_12 = LOAD4( x_ptr + ((((max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) * 16) + (v_6 * 16)) + ((convert_int(get_local_id(0))) * 16)) - 16));
    _ptr_1[0] = (_ptr_1[0] + (v_8 * v_12));
    int v_13 = 1;
    float4 v_14 = LOAD4( x_ptr + ((((max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) * 16) + (v_6 * 16)) + ((convert_int(get_local_id(0))) * 16)) - 12));
    _ptr_2[0] = (_ptr_2[0] + (v_8 * v_14));
    int v_15 = 2;
    float4 v_16 = LOAD4( x_ptr + ((((max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) * 16) + (v_6 * 16)) + ((convert_int(get_local_id(0))) * 16)) - 8));
    _ptr_3[0] = (_ptr_3[0] + (v_8 * v_16));
    float4 v_17 = LOAD4( weight_ptr + ((((((convert_int(get_local_id(0))) >> 2) * 36) + (max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) * 12)) + (v_6 * 12)) + 4));
    _ptr[0] = (_ptr[0] + (v_17 * v_12));
    _ptr_1[0] = (_ptr_1[0] + (v_17 * v_14));
    _ptr_2[0] = (_ptr_2[0] + (v_17 * v_16));
    int v_18 = 3;
    float4 v_19 = LOAD4( x_ptr + ((((max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) * 16) + (v_6 * 16)) + ((convert_int(get_local_id(0))) * 16)) - 4));
    _ptr_3[0] = (_ptr_3[0] + (v_17 * v_19));
    float4 v_20 = LOAD4( weight_ptr + ((((((convert_int(get_local_id(0))) >> 2) * 36) + (max((int)0, (int)(1 - ((convert_int(get_local_id(0))) & 3))) * 12)) + (v_6 * 12)) + 8));
    _ptr[0] = (_ptr[0] + (v_20 * v_14));
    _ptr_1[0] = (_ptr_1[0] + (v_20 * v_16));
    _ptr_2[0] = (_ptr_2[0] + (v_20 * v_19));
    int v_21 = 3;
    float4 v_22 = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
    _ptr_3[0] = (_ptr_3[0] + (v_20 * ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f))));
  }
  float4 v_23 = _ptr[0];
  float4 cse_v4 = max(v_23, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f)));
  float4 v_24 = max(v_23, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f)));
  STORE4(max(v_23, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f))), 0, y_ptr + ((convert_int(get_local_id(0))) * 16));
  float4 v_25 = _ptr_1[0];
  float4 cse_v5 = max(v_25, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f)));
  float4 v_26 = max(v_25, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f)));
  STORE4(max(v_25, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f))), 0, y_ptr + (((convert_int(get_local_id(0))) * 16) + 4));
  float4 v_27 = _ptr_2[0];
  float4 cse_v6 = max(v_27, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f)));
  float4 v_28 = max(v_27, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f)));
  STORE4(max(v_27, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f))), 0, y_ptr + (((convert_int(get_local_id(0))) * 16) + 8));
  float4 v_29 = _ptr_3[0];
  float4 cse_v7 = max(v_29, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f)));
  float4 v_30 = max(v_29, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f)));
  STORE4(max(v_29, ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f))), 0, y_ptr + (((convert_int(get_local_id(0))) * 16) + 12));
}

// Function: conv_1x1_1_kernel
__kernel void conv_1x1_1_kernel(__global float* restrict _ptr, __global float* restrict _ptr_1, __global float* restrict weight_ptr) {
  float4 _ptr_2[1];
  float4 _ptr_3[1];
  float4 _ptr_4[1];
  float4 _ptr_5[1];
  float4 _ptr_6[1];
  float4 _ptr_7[1];
  int v = (convert_int(get_local_id(0)));
  int v_1 = 0;
  int v_2 = 0;
  int cse_v1 = ((convert_int(get_local_id(0))) * 6);
  int v_3 = ((convert_int(get_local_id(0))) * 6);
  _ptr_2[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  _ptr_3[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  _ptr_4[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  _ptr_5[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  _ptr_6[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  _ptr_7[0] = ((float4)(0.000000e+00f, 0.000000e+00f, 0.000000e+00f, 0.000000e+00f));
  int cse_v3 = ((convert_int(get_local_id(0))) * 24);
  for (int v_4 = 0; v_4 < 2; ++v_4) {
    int v_5 = ((convert_int(get_local_id(0))) * 6);
    int cse_v2 = (v_4 * 64);
    int cse_v5 = ((v_4 * 64) + ((convert_int(get_local_id(0))) * 24));
    float4 v_6 = LOAD4( _ptr + ((v_4 * 64) + ((convert_int(get_local_id(0))) * 24)));
    float4 v_7 = ((float4)((v_6).s0, (v_6).s0, (v_6).s0, (v_6).s0));
    float4 v_8 = ((float4)((v_6).s1, (v_6).s1, (v_6).s1, (v_6).s1));
    float4 v_9 = ((float4)((v_6).s2, (v_6).s2, (v_6).s2, (v_6).s2));
    float4 v_10 = ((float4)((v_6).s3, (v_6).s3, (v_6).s3, (v_6).s3));
    int v_11 = (((convert_int(get_local_id(0))) * 6) + 1);
    float4 v_12 = LOAD4( _ptr + (((v_4 * 64) + ((convert_int(get_local_id(0))) * 24)) + 4));
    float4 v_13 = ((float4)((v_12).s0, (v_12).s0, (v_12).s0, (v_12).s0));
    float4 v_14 = ((float4)((v_12).s1, (v_12).s1, (v_12).s1, (v_12).s1));
    float4 v_15 = ((float4)((v_12).s2, (v_12).s2, (v_12).s2, (v_12).s2));
    float4 v_16 = ((float4)((v_12).s3, (v_12).s3, (v_12).s3, (v_12).s3));
    int v_17 = (((convert_int(get_local_id(0))) * 6) + 2);
    float4 v_18 = LOAD4( _ptr + (((v_4 * 64) + ((convert_int(get_local_id(0))) * 24)) + 8));
    float4 v_19 = ((float4)((v_18).s0, (v_18).s0, (v_18).s0, (v_18).s0));
    float4 v_20 = ((float4)((v_18).s1, (v_18).s1, (v_18).s1, (v_18).s1));
    float4 v_21 = ((float4)((v_18).s2, (v_18).s2, (v_18).s2, (v_18).s2));
    float4 v_22 = ((float4)((v_18).s3, (v_18).s3, (v_18).s3, (v_18).s3));
    int v_23 = (((convert_int(get_local_id(0))) * 6) + 3);
    float4 v_24 = LOAD4( _ptr + (((v_4 * 64) + ((convert_int(get_local_id(0))) * 24)) + 12));
    float4 v_25 = ((float4)((v_24).s0, (v_24).s0, (v_24).s0, (v_24).s0));
    float4 v_26 = ((float4)((v_24).s1, (v_24).s1, (v_24).s1, (v_24).s1));
    float4 v_27 = ((float4)((v_24).s2, (v_24).s2, (v_24).s2, (v_24).s2));
    float4 v_28 = ((float4)((v_24).s3, (v_24).s3, (v_24).s3, (v_24).s3));
    int cse_v6 = min((int)(((convert_int(get_local_id(0))) * 6) + 4), (int)15);
    int v_29 = min((int)(((convert_int(get_local_id(0))) * 6) + 4), (int)15);
    float4 v_30 = LOAD4( _ptr + ((v_4 * 64) + (min((int)(((convert_int(get_local_id(0))) * 6) + 4), (int)15) * 4)));
    float4 v_31 = ((float4)((v_30).s0, (v_30).s0, (v_30).s0, (v_30).s0));
    float4 v_32 = ((float4)((v_30).s1, (v_30).s1, (v_30).s1, (v_30).s1));
    float4 v_33 = ((float4)((v_30).s2, (v_30).s2, (v_30).s2, (v_30).s2));
    float4 v_34 = ((float4)((v_30).s3, (v_30).s3, (v_30).s3, (v_30).s3));
    int cse_v7 = min((int)(((convert_int(get_local_id(0))) * 6) + 5), (int)15);
    int v_35 = min((int)(((convert_int(get_local_id(0))) * 6) + 5), (int)15);
    float4 v_36 = LOAD4( _ptr + ((v_4 * 64) + (min((int)(((convert_int(get_local_id(0))) * 6) + 5), (int)15) * 4)));
    float4 v_37 = ((float4)((v_36).s0, (v_36).s0, (v_36).s0, (v_36).s0));
    float4 v_38 = ((float4)((v_36).s1, (v_36).s1, (v_36).s1, (v_36).s1));
    float4 v_39 = ((float4)((v_36).s2, (v_36).s2, (v_36).s2, (v_36).s2));
    float4 v_40 = ((float4)((v_36).s3, (v_36).s3, (v_36).s3, (v_36).s3));
    int cse_v4 = (v_4 * 16);
    float4 v_41 = LOAD4( weight_ptr + (v_4 * 16));
    _ptr_2[0] = (_ptr_2[0] + (v_41 * ((float4)((v_6).s0, (v_6).s0, (v_6).s0, (v_6).s0))));
    _ptr_3[0] = (_ptr_3[0] + (v_41 * ((float4)((v_12).s0, (v_12).s0, (v_12).s0, (v_12).s0))));
    _ptr_4[0] = (_ptr_4[0] + (v_41 * ((float4)((v_18).s0, (v_18).s0, (v_18).s0, (v_18).s0))));
    _ptr_5[0] = (_ptr_5[0] + (v_41 * ((float4)((v_24).s0, (v_24).s0, (v_24).s0, (v_24).s0))));
    _ptr_6[0] = (_ptr_6[0] + (v_41 * ((float4)((v_30).s0, (v_30).s0, (v_30).s0, (v_30).s0))));
    _ptr_7[0] = (_ptr_7[0] + (v_41 * ((float4)((v_36).s0, (v_36).s0, (v_36).s0, (v_36).s0))));
    float4 v_42 = LOAD4( weight_ptr + ((v_4 * 16) + 4));
    _ptr_2[0] = (_ptr_2[0] + (v_42 * ((float4)((v_6).s1, (v_6).s1, (v_6).s1, (v_6).s1))));
    _ptr_3[0] = (_ptr_3[0] + (v_42 * ((float4)((v_12).s1, (v_12).s1, (v_12).s1, (v_12).s1))));
    _ptr_4[0] = (_ptr_4[0] + (v_42 * ((float4)((v_18).s1, (v_18).s1, (v_18).s1, (v_18).s1))));
    _ptr_5[0] = (_ptr_5[0] + (v_42 * ((float4)((v_24).s1, (v_24).s1, (v_24).s1, (v_24).s1))));
    _ptr_6[0] = (_ptr_6[0] + (v_42 * ((float4)((v_30).s1, (v_30).s1, (v_30).s1, (v_30).s1))));
    _ptr_7[0] = (_ptr_7[0] + (v_42 * ((float4)((v_36).s1, (v_36).s1, (v_36).s1, (v_36).s1))));
    float4 v_43 = LOAD4( weight_ptr + ((v_4 * 16) + 8));
    _ptr_2[0] = (_ptr_2[0] + (v_43 * ((float4)((v_6).s2, (v_6).s2, (v_6).s2, (v_6).s2))));
    _ptr_3[0] = (_ptr_3[0] + (v_43 * ((float4)((v_12).s2, (v_12).s2, (v_12).s2, (v_12).s2))));
    _ptr_4[0] = (_ptr_4[0] + (v_43 * ((float4)((v_18).s2, (v_18).s2, (v_18).s2, (v_18).s2))));
    _ptr_5[0] = (_ptr_5[0] + (v_43 * ((float4)((v_24).s2, (v_24).s2, (v_24).s2, (v_24).s2))));
    _ptr_6[0] = (_ptr_6[0] + (v_43 * ((float4)((v_30).s2, (v_30).s2, (v_30).s2, (v_30).s2))));
    _ptr_7[0] = (_ptr_7[0] + (v_43 * ((float4)((v_36).s2, (v_36).s2, (v_36).s2, (v_36).s2))));
    float4 v_44 = LOAD4( weight_ptr + ((v_4 * 16) + 12));
    _ptr_2[0] = (_ptr_2[0] + (v_44 * ((float4)((v_6).s3, (v_6).s3, (v_6).s3, (v_6).s3))));
    _ptr_3[0] = (_ptr_3[0] + (v_44 * ((float4)((v_12).s3, (v_12).s3, (v_12).s3, (v_12).s3))));
    _ptr_4[0] = (_ptr_4[0] + (v_44 * ((float4)((v_18).s3, (v_18).s3, (v_18).s3, (v_18).s3))));
    _ptr_5[0] = (_ptr_5[0] + (v_44 * ((float4)((v_24).s3, (v_24).s3, (v_24).s3, (v_24).s3))));
    _ptr_6[0] = (_ptr_6[0] + (v_44 * ((float4)((v_30).s3, (v_30).s3, (v_30).s3, (v_30).s3))));
    _ptr_7[0] = (_ptr_7[0] + (v_44 * ((float4)((v_36).s3, (v_36).s3, (v_36).s3, (v_36).s3))));
  }
  float4 v_45 = _ptr_2[0];
  STORE4(v_45, 0, _ptr_1 + ((convert_int(get_local_id(0))) * 24));
  float4 v_46 = _ptr_3[0];
  STORE4(v_46, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 4));
  float4 v_47 = _ptr_4[0];
  STORE4(v_47, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 8));
  float4 v_48 = _ptr_5[0];
  STORE4(v_48, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 12));
  if ((convert_int(get_local_id(0))) < 2) {
    float4 v_49 = _ptr_6[0];
    STORE4(v_49, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 16));
  }
  if ((convert_int(get_local_id(0))) < 2) {
    float4 v_50 = _ptr_7[0];
    STORE4(v_50, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 20));
  }
}

// Function: pack_kernel
__kernel void pack_kernel(__global float* restrict pack_ptr, __global float* restrict x_ptr) {
  if ((convert_int(get_local_id(0))) < 128) {
    pack_ptr[(convert_int(get_local_id(0)))] = x_ptr[(((((convert_int(get_local_id(0))) >> 6) * 64) + (((convert_int(get_local_id(0))) & 3) * 16)) + (((convert_int(get_local_id(0))) & 63) >> 2))];
  }
}

// Function: unpack_kernel
__kernel void unpack_kernel(__global float* restrict lv2_ptr, __global float* restrict unpack_ptr) {
  if ((convert_int(get_local_id(0))) < 64) {
    unpack_ptr[(convert_int(get_local_id(0)))] = lv2_ptr[((((convert_int(get_local_id(0))) & 15) * 4) + ((convert_int(get_local_id(0))) >> 4))];
  }
}
