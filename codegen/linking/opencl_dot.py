"""OpenCL C for sums of products of bytes, by whatever function the device's compiler has.

Which that is is decided where the text is compiled, so one bundle runs anywhere: Arm's extension
(signed bytes only, so words lose 128 a byte), Khronos's, Qualcomm's, or plain integers. Kernels use

* `BYTES(words)`: words of unsigned bytes as the function wants them;
* `STARTING_SUMS(unsigned, signed)`: those of two vectors that sums begin with which suit that;
* `DOT4(sums, word, weights)`: four sums, and to each the products of a word with its own weights.

Compilers have Khronos's from OpenCL C 2.0 on, so runners ask for a later version than the default
where a device lists it. `PLAIN_DOT`, where defined, has integers whatever extensions the compiler
speaks of: runners define it where the device lists none, or kernels cannot be built otherwise.
"""

DOT_PRODUCTS = """\
#if defined(PLAIN_DOT)
#elif defined(cl_arm_integer_dot_product_accumulate_int8)
#pragma OPENCL EXTENSION cl_arm_integer_dot_product_accumulate_int8 : enable
#define DOT(sum, word, weight) arm_dot_acc(as_char4(word), as_char4(weight), sum)
#define BYTES(words) ((words) ^ as_int(0x80808080u))
#define STARTING_SUMS(of_unsigned, of_signed) (of_signed)
#elif defined(cl_khr_integer_dot_product) && __OPENCL_C_VERSION__ >= 200
#define DOT(sum, word, weight) (sum + dot_4x8packed_su_int(as_uint(weight), as_uint(word)))
#elif defined(cl_qcom_dot_product8)
#pragma OPENCL EXTENSION cl_qcom_dot_product8 : enable
#define DOT(sum, word, weight) qcom_dot8_acc(as_uint(weight), as_uint(word), sum)
#endif
#ifndef DOT
#define PRODUCT(word, weight, i) (as_uchar4(word).s##i * as_char4(weight).s##i)
#define DOT(sum, word, weight) \\
  (sum + PRODUCT(word, weight, 0) + PRODUCT(word, weight, 1) + PRODUCT(word, weight, 2) + \\
   PRODUCT(word, weight, 3))
#endif
#ifndef BYTES
#define BYTES(words) (words)
#define STARTING_SUMS(of_unsigned, of_signed) (of_unsigned)
#endif
#define DOT4(sums, word, weights) \\
  (int4)(DOT(sums.s0, word, weights.s0), DOT(sums.s1, word, weights.s1), \\
         DOT(sums.s2, word, weights.s2), DOT(sums.s3, word, weights.s3))
"""
