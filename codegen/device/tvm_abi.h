// What kernels that TVM compiled expect of whoever calls them, without TVM's runtime: the layout of
// their arguments (DLPack 1; tvm/ffi/c_api.h) and what they ask for (tvm/runtime/c_backend_api.h),
// as of TVM 0.27.
#pragma once

#include <cstdint>

namespace graphopt {

struct DLDevice {
    int32_t type, id;
};

struct DLDataType {
    uint8_t code, bits;
    uint16_t lanes;
};

struct DLTensor {
    void* data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t* shape;
    int64_t* strides;  // in elements
    uint64_t byte_offset;
};

constexpr int32_t kDLCPU = 1;

// An argument.
struct TVMFFIAny {
    int32_t type_index;
    uint32_t zero_padding;
    union {
        int64_t v_int64;
        void* v_ptr;
    };
};

static_assert(sizeof(TVMFFIAny) == 16, "a type and eight bytes");

constexpr int32_t kTVMFFIDLTensorPtr = 7;

// A kernel, `__tvm_ffi_NAME`; 0 after a success.
using TVMFFIKernel = int (*)(void* self, const TVMFFIAny* arguments, int32_t count,
                             TVMFFIAny* result);

// What a parallel loop's body is given besides the number of its task.
struct TVMParallelGroupEnv {
    void* sync_handle;
    int32_t num_task;
};

using TVMParallelLambda = int (*)(int task, TVMParallelGroupEnv* environment, void* data);

// Variables of a library of kernels, which its loader points to functions of these types.
using TVMParallelLaunch = int (*)(TVMParallelLambda body, void* data, int tasks);
using TVMAllocWorkspace = void* (*)(int device_type, int device_id, uint64_t bytes, int code,
                                    int bits);
using TVMFreeWorkspace = int (*)(int device_type, int device_id, void* memory);

}  // namespace graphopt

// What such a library leaves undefined: where a kernel says what is wrong with its arguments.
extern "C" __attribute__((visibility("default"))) void TVMFFIErrorSetRaisedFromCStrParts(
    const char* kind, const char** parts, int32_t count);
