// An OpenCL library as Google's phones have it: it exports no function of OpenCL, but hands out those
// of LIBRARY once it was enabled.

#include <dlfcn.h>

static void* library;

extern "C" void enableOpenCL() { library = dlopen(LIBRARY, RTLD_NOW); }

extern "C" void* loadOpenCLPointer(const char* name) {
    return library == nullptr ? nullptr : dlsym(library, name);
}
