// An OpenCL whose kernels compute nothing: they read and write the first and the last byte of their
// arguments. So all of the device runner's own code can run on damaged bundles, under sanitizers;
// real kernels would follow damaged numbers anywhere.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../../../codegen/device/opencl_api.h"

namespace graphopt {

struct ClMem {
    unsigned char* data;
    size_t size;
    bool owned;
};

struct ClProgram {
    std::string source;
};

struct ClKernel {
    std::vector<cl_mem> arguments;
};

}  // namespace graphopt

using namespace graphopt;

namespace {

int object;  // what handles without content point to

template <class Handle>
Handle some() {
    return reinterpret_cast<Handle>(&object);
}

template <class Handle>
Handle made(Handle handle, cl_int* status) {
    *status = handle != nullptr ? CL_SUCCESS : -1;
    return handle;
}

// The runner must never ask for what it did not make.
void must(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "idle OpenCL: %s\n", what);
    std::abort();
}

cl_int give(const void* value, size_t bytes, size_t room, void* to, size_t* size) {
    if (size != nullptr) *size = bytes;
    if (to == nullptr) return CL_SUCCESS;
    must(room >= bytes, "there is too little room for an answer");
    std::memcpy(to, value, bytes);
    return CL_SUCCESS;
}

}  // namespace

extern "C" {

cl_int clGetPlatformIDs(cl_uint, cl_platform_id* platforms, cl_uint* count) {
    if (platforms != nullptr) *platforms = some<cl_platform_id>();
    if (count != nullptr) *count = 1;
    return CL_SUCCESS;
}

cl_int clGetDeviceIDs(cl_platform_id, cl_bitfield, cl_uint, cl_device_id* devices, cl_uint* count) {
    if (devices != nullptr) *devices = some<cl_device_id>();
    if (count != nullptr) *count = 1;
    return CL_SUCCESS;
}

cl_int clGetDeviceInfo(cl_device_id, cl_uint what, size_t room, void* to, size_t* size) {
    const cl_bitfield type = CL_DEVICE_TYPE_GPU;
    const cl_uint number = what == CL_DEVICE_IMAGE_SUPPORT ? 1 : 1024;
    const size_t pixels = 1 << 20;
    if (what == CL_DEVICE_TYPE) return give(&type, sizeof type, room, to, size);
    if (what == CL_DEVICE_IMAGE_MAX_BUFFER_SIZE)
        return give(&pixels, sizeof pixels, room, to, size);
    if (what == CL_DEVICE_IMAGE_SUPPORT || what == CL_DEVICE_MEM_BASE_ADDR_ALIGN) {
        return give(&number, sizeof number, room, to, size);
    }
    return give("idle", 5, room, to, size);
}

cl_context clCreateContext(const intptr_t*, cl_uint, const cl_device_id*,
                           void (*)(const char*, const void*, size_t, void*), void*,
                           cl_int* status) {
    return made(some<cl_context>(), status);
}

cl_command_queue clCreateCommandQueue(cl_context, cl_device_id, cl_bitfield, cl_int* status) {
    return made(some<cl_command_queue>(), status);
}

cl_mem clCreateBuffer(cl_context, cl_bitfield flags, size_t size, void* content, cl_int* status) {
    if (size == 0 || size > size_t{1} << 30) return made<cl_mem>(nullptr, status);
    auto* data = static_cast<unsigned char*>(std::malloc(size));
    if (data == nullptr) return made<cl_mem>(nullptr, status);
    if ((flags & CL_MEM_COPY_HOST_PTR) != 0) std::memcpy(data, content, size);
    return made(new ClMem{data, size, true}, status);
}

cl_mem clCreateSubBuffer(cl_mem buffer, cl_bitfield, cl_uint, const void* region, cl_int* status) {
    const auto& part = *static_cast<const cl_buffer_region*>(region);
    must(part.size > 0 && part.origin <= buffer->size && part.size <= buffer->size - part.origin,
         "a part lies outside of its buffer");
    return made(new ClMem{buffer->data + part.origin, part.size, false}, status);
}

cl_mem clCreateImage(cl_context, cl_bitfield, const cl_image_format* format,
                     const cl_image_desc* description, void*, cl_int* status) {
    const size_t pixel = format->type == CL_HALF_FLOAT ? 8 : 16, size = pixel * description->width;
    must(size <= description->buffer->size, "an image is larger than its buffer");
    if (size == 0) return made<cl_mem>(nullptr, status);
    return made(new ClMem{description->buffer->data, size, false}, status);
}

cl_program clCreateProgramWithSource(cl_context, cl_uint, const char** texts, const size_t* lengths,
                                     cl_int* status) {
    return made(new ClProgram{std::string(*texts, *lengths)}, status);
}

cl_program clCreateProgramWithBinary(cl_context, cl_uint, const cl_device_id*, const size_t* sizes,
                                     const unsigned char** binaries, cl_int* of_binary,
                                     cl_int* status) {
    *of_binary = CL_SUCCESS;
    const auto* text = reinterpret_cast<const char*>(*binaries);
    return made(new ClProgram{std::string(text, *sizes)}, status);
}

cl_int clBuildProgram(cl_program program, cl_uint, const cl_device_id*, const char*,
                      void (*)(cl_program, void*), void*) {
    return program->source.find("__kernel") != std::string::npos ? CL_SUCCESS : -11;
}

cl_int clGetProgramInfo(cl_program program, cl_uint what, size_t room, void* to, size_t* size) {
    const size_t length = program->source.size();
    if (what == CL_PROGRAM_BINARY_SIZES) return give(&length, sizeof length, room, to, size);
    std::memcpy(*static_cast<unsigned char**>(to), program->source.data(), length);
    return CL_SUCCESS;
}

cl_int clGetProgramBuildInfo(cl_program, cl_device_id, cl_uint, size_t room, void* to,
                             size_t* size) {
    return give("there is no kernel", 19, room, to, size);
}

cl_kernel clCreateKernel(cl_program program, const char* name, cl_int* status) {
    const std::string& source = program->source;
    const std::string head = " " + std::string(name) + "(";
    const size_t start = source.find(head);
    if (start == std::string::npos) return made<cl_kernel>(nullptr, status);
    const size_t end = std::min(source.find(')', start), source.size());
    size_t arguments = 1;
    for (size_t i = start; i < end; ++i) arguments += source[i] == ',';
    return made(new ClKernel{std::vector<cl_mem>(arguments)}, status);
}

cl_int clGetKernelInfo(cl_kernel kernel, cl_uint, size_t room, void* to, size_t* size) {
    const auto count = static_cast<cl_uint>(kernel->arguments.size());
    return give(&count, sizeof count, room, to, size);
}

cl_int clSetKernelArg(cl_kernel kernel, cl_uint number, size_t size, const void* value) {
    must(number < kernel->arguments.size() && size == sizeof(cl_mem), "there is no such argument");
    std::memcpy(&kernel->arguments[number], value, size);
    return CL_SUCCESS;
}

cl_int clEnqueueNDRangeKernel(cl_command_queue, cl_kernel kernel, cl_uint dimensions, const size_t*,
                              const size_t* grid, const size_t* group, cl_uint, const cl_event*,
                              cl_event*) {
    must(dimensions >= 1 && dimensions <= 3, "there are no such dimensions");
    for (cl_uint i = 0; i < dimensions; ++i) must(grid[i] % group[i] == 0, "a group is cut");
    for (cl_mem memory : kernel->arguments) {
        must(memory != nullptr, "an argument was not set");
        memory->data[0] += 1;
        memory->data[memory->size - 1] += 1;
    }
    return CL_SUCCESS;
}

void* clEnqueueMapBuffer(cl_command_queue, cl_mem buffer, cl_bool, cl_bitfield, size_t offset,
                         size_t size, cl_uint, const cl_event*, cl_event*, cl_int* status) {
    must(size > 0 && offset <= buffer->size && size <= buffer->size - offset,
         "the host reaches past a buffer");
    return made(buffer->data + offset, status);
}

cl_int clEnqueueUnmapMemObject(cl_command_queue, cl_mem, void*, cl_uint, const cl_event*,
                               cl_event*) {
    return CL_SUCCESS;
}

cl_int clFinish(cl_command_queue) { return CL_SUCCESS; }
cl_int clReleaseContext(cl_context) { return CL_SUCCESS; }
cl_int clReleaseCommandQueue(cl_command_queue) { return CL_SUCCESS; }

cl_int clReleaseMemObject(cl_mem memory) {
    if (memory->owned) std::free(memory->data);
    delete memory;
    return CL_SUCCESS;
}

cl_int clReleaseProgram(cl_program program) {
    delete program;
    return CL_SUCCESS;
}

cl_int clReleaseKernel(cl_kernel kernel) {
    delete kernel;
    return CL_SUCCESS;
}

}  // extern "C"
