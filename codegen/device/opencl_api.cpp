#include "opencl_api.h"

#include <dlfcn.h>

#include <cstdlib>
#include <string>

#include "error.h"

namespace graphopt {
namespace {

// Names of the loader, then where phones keep their vendor's library.
constexpr const char* kLibraries[] = {
    "libOpenCL.so",
    "libOpenCL.so.1",
    "libOpenCL-pixel.so",
    "libOpenCL-car.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/system/vendor/lib64/egl/libGLES_mali.so",
    "/vendor/lib64/libPVROCL.so",
};

void* open_library() {
    if (const char* named = std::getenv("GRAPHOPT_OPENCL"); named != nullptr && *named != '\0') {
        void* library = dlopen(named, RTLD_NOW | RTLD_LOCAL);
        if (library == nullptr) throw Unsupported(std::string("GRAPHOPT_OPENCL: ") + dlerror());
        return library;
    }
    for (const char* name : kLibraries) {
        if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
    }
    throw Unsupported(
        "this device has no OpenCL library (an Android app must name it in its manifest: "
        "<uses-native-library android:name=\"libOpenCL.so\" android:required=\"false\"/>, and so "
        "libOpenCL-pixel.so); GRAPHOPT_OPENCL may name one");
}

using Lookup = void* (*)(const char*);

// How Google's phones and cars hand out functions that their library does not export; null where it
// exports them.
Lookup lookup_of(void* library) {
    if (void* enable = dlsym(library, "enableOpenCL")) reinterpret_cast<void (*)()>(enable)();
    return reinterpret_cast<Lookup>(dlsym(library, "loadOpenCLPointer"));
}

template <class Function>
void find(void* library, Lookup lookup, const char* name, Function& function) {
    void* found = lookup != nullptr ? lookup(name) : dlsym(library, name);
    function = reinterpret_cast<Function>(found);
    if (function == nullptr) throw Unsupported(std::string("the OpenCL library has no ") + name);
}

OpenClApi load() {
    void* library = open_library();
    const Lookup lookup = lookup_of(library);
    OpenClApi api;
#define GRAPHOPT_FIND(name) find(library, lookup, "cl" #name, api.name)
    GRAPHOPT_FIND(GetPlatformIDs);
    GRAPHOPT_FIND(GetDeviceIDs);
    GRAPHOPT_FIND(GetDeviceInfo);
    GRAPHOPT_FIND(CreateContext);
    GRAPHOPT_FIND(CreateCommandQueue);
    GRAPHOPT_FIND(CreateBuffer);
    GRAPHOPT_FIND(CreateSubBuffer);
    GRAPHOPT_FIND(CreateImage);
    GRAPHOPT_FIND(CreateProgramWithSource);
    GRAPHOPT_FIND(CreateProgramWithBinary);
    GRAPHOPT_FIND(BuildProgram);
    GRAPHOPT_FIND(GetProgramInfo);
    GRAPHOPT_FIND(GetProgramBuildInfo);
    GRAPHOPT_FIND(CreateKernel);
    GRAPHOPT_FIND(GetKernelInfo);
    GRAPHOPT_FIND(SetKernelArg);
    GRAPHOPT_FIND(EnqueueNDRangeKernel);
    GRAPHOPT_FIND(EnqueueMapBuffer);
    GRAPHOPT_FIND(EnqueueUnmapMemObject);
    GRAPHOPT_FIND(Finish);
    GRAPHOPT_FIND(ReleaseContext);
    GRAPHOPT_FIND(ReleaseCommandQueue);
    GRAPHOPT_FIND(ReleaseMemObject);
    GRAPHOPT_FIND(ReleaseProgram);
    GRAPHOPT_FIND(ReleaseKernel);
#undef GRAPHOPT_FIND
    return api;
}

}  // namespace

const OpenClApi& opencl() {
    static const OpenClApi api = load();
    return api;
}

}  // namespace graphopt
