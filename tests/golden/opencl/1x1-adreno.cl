// Kernels of plans/1x1-adreno.txt.

#define LOAD4(p) (*(__global const float4*)(p))
#define STORE4(value, zero, p) (*(__global float4*)(p) = (value))
#define LOAD_HALF(x) vload_half(0, &(x))
#define STORE_HALF(value, x) vstore_half_rte(value, 0, &(x))
#define LOAD_HALF4(p) vloada_half4(0, p)
#define STORE_HALF4(value, zero, p) vstorea_half4_rte(value, zero, p)
#define LOAD_AS_HALF4(p) (*(__global const half4*)(p))
#define READ4(image, at) read_imagef(image, (at) >> 2)
#define READ_AS_HALF4(image, at) read_imageh(image, (at) >> 2)

// Function: conv_1x1_0_kernel
__kernel void conv_1x1_0_kernel(__read_only image1d_buffer_t _ptr, __global float* restrict _ptr_1, __global float* restrict weight_ptr) {
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
  int v_4 = ((convert_int(get_local_id(0))) * 6);
  int cse_v2 = ((convert_int(get_local_id(0))) * 24);
  float4 v_5 = READ4(_ptr, ((convert_int(get_local_id(0))) * 24));
  float4 v_6 = ((float4)((v_5).s0, (v_5).s0, (v_5).s0, (v_5).s0));
  float4 v_7 = ((float4)((v_5).s1, (v_5).s1, (v_5).s1, (v_5).s1));
  float4 v_8 = ((float4)((v_5).s2, (v_5).s2, (v_5).s2, (v_5).s2));
  float4 v_9 = ((float4)((v_5).s3, (v_5).s3, (v_5).s3, (v_5).s3));
  int v_10 = (((convert_int(get_local_id(0))) * 6) + 1);
  int cse_v3 = (((convert_int(get_local_id(0))) * 24) + 4);
  float4 v_11 = READ4(_ptr, (((convert_int(get_local_id(0))) * 24) + 4));
  float4 v_12 = ((float4)((v_11).s0, (v_11).s0, (v_11).s0, (v_11).s0));
  float4 v_13 = ((float4)((v_11).s1, (v_11).s1, (v_11).s1, (v_11).s1));
  float4 v_14 = ((float4)((v_11).s2, (v_11).s2, (v_11).s2, (v_11).s2));
  float4 v_15 = ((float4)((v_11).s3, (v_11).s3, (v_11).s3, (v_11).s3));
  int v_16 = (((convert_int(get_local_id(0))) * 6) + 2);
  int cse_v4 = (((convert_int(get_local_id(0))) * 24) + 8);
  float4 v_17 = READ4(_ptr, (((convert_int(get_local_id(0))) * 24) + 8));
  float4 v_18 = ((float4)((v_17).s0, (v_17).s0, (v_17).s0, (v_17).s0));
  float4 v_19 = ((float4)((v_17).s1, (v_17).s1, (v_17).s1, (v_17).s1));
  float4 v_20 = ((float4)((v_17).s2, (v_17).s2, (v_17).s2, (v_17).s2));
  float4 v_21 = ((float4)((v_17).s3, (v_17).s3, (v_17).s3, (v_17).s3));
  int v_22 = (((convert_int(get_local_id(0))) * 6) + 3);
  int cse_v5 = (((convert_int(get_local_id(0))) * 24) + 12);
  float4 v_23 = READ4(_ptr, (((convert_int(get_local_id(0))) * 24) + 12));
  float4 v_24 = ((float4)((v_23).s0, (v_23).s0, (v_23).s0, (v_23).s0));
  float4 v_25 = ((float4)((v_23).s1, (v_23).s1, (v_23).s1, (v_23).s1));
  float4 v_26 = ((float4)((v_23).s2, (v_23).s2, (v_23).s2, (v_23).s2));
  float4 v_27 = ((float4)((v_23).s3, (v_23).s3, (v_23).s3, (v_23).s3));
  int cse_v6 = min((int)(((convert_int(get_local_id(0))) * 6) + 4), (int)15);
  int v_28 = min((int)(((convert_int(get_local_id(0))) * 6) + 4), (int)15);
  float4 v_29 = READ4(_ptr, (min((int)(((convert_int(get_local_id(0))) * 6) + 4), (int)15) * 4));
  float4 v_30 = ((float4)((v_29).s0, (v_29).s0, (v_29).s0, (v_29).s0));
  float4 v_31 = ((float4)((v_29).s1, (v_29).s1, (v_29).s1, (v_29).s1));
  float4 v_32 = ((float4)((v_29).s2, (v_29).s2, (v_29).s2, (v_29).s2));
  float4 v_33 = ((float4)((v_29).s3, (v_29).s3, (v_29).s3, (v_29).s3));
  int cse_v7 = min((int)(((convert_int(get_local_id(0))) * 6) + 5), (int)15);
  int v_34 = min((int)(((convert_int(get_local_id(0))) * 6) + 5), (int)15);
  float4 v_35 = READ4(_ptr, (min((int)(((convert_int(get_local_id(0))) * 6) + 5), (int)15) * 4));
  float4 v_36 = ((float4)((v_35).s0, (v_35).s0, (v_35).s0, (v_35).s0));
  float4 v_37 = ((float4)((v_35).s1, (v_35).s1, (v_35).s1, (v_35).s1));
  float4 v_38 = ((float4)((v_35).s2, (v_35).s2, (v_35).s2, (v_35).s2));
  float4 v_39 = ((float4)((v_35).s3, (v_35).s3, (v_35).s3, (v_35).s3));
  float4 v_40 = LOAD4( weight_ptr + 0);
  _ptr_2[0] = (_ptr_2[0] + (v_40 * ((float4)((v_5).s0, (v_5).s0, (v_5).s0, (v_5).s0))));
  _ptr_3[0] = (_ptr_3[0] + (v_40 * ((float4)((v_11).s0, (v_11).s0, (v_11).s0, (v_11).s0))));
  _ptr_4[0] = (_ptr_4[0] + (v_40 * ((float4)((v_17).s0, (v_17).s0, (v_17).s0, (v_17).s0))));
  _ptr_5[0] = (_ptr_5[0] + (v_40 * ((float4)((v_23).s0, (v_23).s0, (v_23).s0, (v_23).s0))));
  _ptr_6[0] = (_ptr_6[0] + (v_40 * ((float4)((v_29).s0, (v_29).s0, (v_29).s0, (v_29).s0))));
  _ptr_7[0] = (_ptr_7[0] + (v_40 * ((float4)((v_35).s0, (v_35).s0, (v_35).s0, (v_35).s0))));
  float4 v_41 = LOAD4( weight_ptr + 4);
  _ptr_2[0] = (_ptr_2[0] + (v_41 * ((float4)((v_5).s1, (v_5).s1, (v_5).s1, (v_5).s1))));
  _ptr_3[0] = (_ptr_3[0] + (v_41 * ((float4)((v_11).s1, (v_11).s1, (v_11).s1, (v_11).s1))));
  _ptr_4[0] = (_ptr_4[0] + (v_41 * ((float4)((v_17).s1, (v_17).s1, (v_17).s1, (v_17).s1))));
  _ptr_5[0] = (_ptr_5[0] + (v_41 * ((float4)((v_23).s1, (v_23).s1, (v_23).s1, (v_23).s1))));
  _ptr_6[0] = (_ptr_6[0] + (v_41 * ((float4)((v_29).s1, (v_29).s1, (v_29).s1, (v_29).s1))));
  _ptr_7[0] = (_ptr_7[0] + (v_41 * ((float4)((v_35).s1, (v_35).s1, (v_35).s1, (v_35).s1))));
  float4 v_42 = LOAD4( weight_ptr + 8);
  _ptr_2[0] = (_ptr_2[0] + (v_42 * ((float4)((v_5).s2, (v_5).s2, (v_5).s2, (v_5).s2))));
  _ptr_3[0] = (_ptr_3[0] + (v_42 * ((float4)((v_11).s2, (v_11).s2, (v_11).s2, (v_11).s2))));
  _ptr_4[0] = (_ptr_4[0] + (v_42 * ((float4)((v_17).s2, (v_17).s2, (v_17).s2, (v_17).s2))));
  _ptr_5[0] = (_ptr_5[0] + (v_42 * ((float4)((v_23).s2, (v_23).s2, (v_23).s2, (v_23).s2))));
  _ptr_6[0] = (_ptr_6[0] + (v_42 * ((float4)((v_29).s2, (v_29).s2, (v_29).s2, (v_29).s2))));
  _ptr_7[0] = (_ptr_7[0] + (v_42 * ((float4)((v_35).s2, (v_35).s2, (v_35).s2, (v_35).s2))));
  float4 v_43 = LOAD4( weight_ptr + 12);
  _ptr_2[0] = (_ptr_2[0] + (v_43 * ((float4)((v_5).s3, (v_5).s3, (v_5).s3, (v_5).s3))));
  _ptr_3[0] = (_ptr_3[0] + (v_43 * ((float4)((v_11).s3, (v_11).s3, (v_11).s3, (v_11).s3))));
  _ptr_4[0] = (_ptr_4[0] + (v_43 * ((float4)((v_17).s3, (v_17).s3, (v_17).s3, (v_17).s3))));
  _ptr_5[0] = (_ptr_5[0] + (v_43 * ((float4)((v_23).s3, (v_23).s3, (v_23).s3, (v_23).s3))));
  _ptr_6[0] = (_ptr_6[0] + (v_43 * ((float4)((v_29).s3, (v_29).s3, (v_29).s3, (v_29).s3))));
  _ptr_7[0] = (_ptr_7[0] + (v_43 * ((float4)((v_35).s3, (v_35).s3, (v_35).s3, (v_35).s3))));
  float4 v_44 = _ptr_2[0];
  STORE4(v_44, 0, _ptr_1 + ((convert_int(get_local_id(0))) * 24));
  float4 v_45 = _ptr_3[0];
  STORE4(v_45, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 4));
  float4 v_46 = _ptr_4[0];
  STORE4(v_46, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 8));
  float4 v_47 = _ptr_5[0];
  STORE4(v_47, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 12));
  if ((convert_int(get_local_id(0))) < 2) {
    float4 v_48 = _ptr_6[0];
    STORE4(v_48, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 16));
  }
  if ((convert_int(get_local_id(0))) < 2) {
    float4 v_49 = _ptr_7[0];
    STORE4(v_49, 0, _ptr_1 + (((convert_int(get_local_id(0))) * 24) + 20));
  }
}

// Function: pack_kernel
__kernel void pack_kernel(__global float* restrict pack_ptr, __global float* restrict x_ptr) {
  if ((convert_int(get_local_id(0))) < 64) {
    pack_ptr[(convert_int(get_local_id(0)))] = x_ptr[((((convert_int(get_local_id(0))) & 3) * 16) + ((convert_int(get_local_id(0))) >> 2))];
  }
}

// Function: unpack_kernel
__kernel void unpack_kernel(__global float* restrict lv1_ptr, __global float* restrict unpack_ptr) {
  if ((convert_int(get_local_id(0))) < 64) {
    unpack_ptr[(convert_int(get_local_id(0)))] = lv1_ptr[((((convert_int(get_local_id(0))) & 15) * 4) + ((convert_int(get_local_id(0))) >> 4))];
  }
}
