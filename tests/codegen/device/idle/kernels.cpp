// Kernels of a cpu bundle that compute nothing: they read and write the first and the last byte of
// their arguments. KERNELS lists their names, each in K(…).

#include "../../../../codegen/device/tvm_abi.h"

using namespace graphopt;

static int touch(const TVMFFIAny* arguments, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
        if (arguments[i].type_index != kTVMFFIDLTensorPtr) return -1;
        const auto& tensor = *static_cast<const DLTensor*>(arguments[i].v_ptr);
        int64_t bytes = tensor.dtype.bits / 8;
        for (int32_t axis = 0; axis < tensor.ndim; ++axis) bytes *= tensor.shape[axis];
        auto* data = static_cast<unsigned char*>(tensor.data) + tensor.byte_offset;
        data[0] += 1;
        data[bytes - 1] += 1;
    }
    return 0;
}

#define K(name)                                                                       \
    extern "C" int __tvm_ffi_##name(void*, const TVMFFIAny* arguments, int32_t count, \
                                    TVMFFIAny*) {                                     \
        return touch(arguments, count);                                               \
    }
KERNELS
