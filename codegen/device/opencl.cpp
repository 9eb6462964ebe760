// Kernels of OpenCL C on one buffer an arena; a tensor is a sub-buffer (graphopt/runtime/runner.py,
// OpenClRunner). What the host writes or reads lies in memory that it sees, so nothing is copied on
// devices that share it.

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <sstream>

#include "backend.h"
#include "files.h"
#include "opencl_api.h"
#include "sha256.h"

namespace graphopt {
namespace {

void check(cl_int status, const char* what) {
    if (status != CL_SUCCESS) {
        throw Unsupported(std::string("OpenCL cannot ") + what + " (error " +
                          std::to_string(status) + ")");
    }
}

template <class Handle>
struct Release;
#define GRAPHOPT_RELEASE(handle, function)                              \
    template <>                                                         \
    struct Release<handle> {                                            \
        void operator()(handle held) const { opencl().function(held); } \
    }
GRAPHOPT_RELEASE(cl_context, ReleaseContext);
GRAPHOPT_RELEASE(cl_command_queue, ReleaseCommandQueue);
GRAPHOPT_RELEASE(cl_mem, ReleaseMemObject);
GRAPHOPT_RELEASE(cl_program, ReleaseProgram);
GRAPHOPT_RELEASE(cl_kernel, ReleaseKernel);
#undef GRAPHOPT_RELEASE

template <class Handle>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Release<Handle>>;

template <class Value>
Value device_value(cl_device_id device, cl_uint what) {
    Value value{};
    check(opencl().GetDeviceInfo(device, what, sizeof value, &value, nullptr), "describe a device");
    return value;
}

std::string device_text(cl_device_id device, cl_uint what) {
    size_t size = 0;
    check(opencl().GetDeviceInfo(device, what, 0, nullptr, &size), "describe a device");
    std::string text(size, '\0');
    check(opencl().GetDeviceInfo(device, what, size, text.data(), nullptr), "describe a device");
    return text.substr(0, text.find('\0'));
}

// The first GPU, or else the first device.
cl_device_id find_device() {
    std::vector<cl_device_id> devices;
    cl_uint count = 0;
    if (opencl().GetPlatformIDs(0, nullptr, &count) != CL_SUCCESS) count = 0;
    std::vector<cl_platform_id> platforms(count);
    if (count > 0)
        check(opencl().GetPlatformIDs(count, platforms.data(), nullptr), "list platforms");
    for (cl_platform_id platform : platforms) {
        cl_uint more = 0;
        if (opencl().GetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &more) != CL_SUCCESS) {
            continue;  // a platform without devices is an error
        }
        std::vector<cl_device_id> found(more);
        check(opencl().GetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, more, found.data(), nullptr),
              "list devices");
        devices.insert(devices.end(), found.begin(), found.end());
    }
    if (devices.empty()) throw Unsupported("this machine has no OpenCL device");
    const auto gpu = std::find_if(devices.begin(), devices.end(), [](cl_device_id device) {
        return (device_value<cl_bitfield>(device, CL_DEVICE_TYPE) & CL_DEVICE_TYPE_GPU) != 0;
    });
    return gpu != devices.end() ? *gpu : devices.front();
}

class OpenClBackend : public Backend {
public:
    OpenClBackend(Bundle& bundle, const std::string& cache)
        : plan_(bundle.plan), device_(find_device()), name_(device_text(device_, CL_DEVICE_NAME)) {
        require(bundle);
        cl_int status = CL_SUCCESS;
        context_.reset(opencl().CreateContext(nullptr, 1, &device_, nullptr, nullptr, &status));
        check(status, "make a context");
        queue_.reset(opencl().CreateCommandQueue(context_.get(), device_, 0, &status));
        check(status, "make a queue");
        build(bundle.source, cache);
        std::string().swap(bundle.source);
        place(bundle);
        for (const Launch& launch : plan_.launches) kernels_.push_back(kernel(launch));
    }

    ~OpenClBackend() override { opencl().Finish(queue_.get()); }

    std::string device() const override { return name_; }

    void write(int tensor, size_t bytes, const std::function<void(void*)>& fill) override {
        cl_mem buffer = buffers_[static_cast<size_t>(tensor)].get();
        void* memory = map(buffer, CL_MAP_WRITE_INVALIDATE_REGION, bytes);
        fill(memory);
        unmap(buffer, memory);
    }

    void launch(size_t number) override {
        const Launch& launch = plan_.launches[number];
        const cl_int status = opencl().EnqueueNDRangeKernel(
            queue_.get(), kernels_[number].get(), static_cast<cl_uint>(launch.grid.size()), nullptr,
            launch.grid.data(), launch.group.data(), 0, nullptr, nullptr);
        if (status != CL_SUCCESS) check(status, ("run " + launch.kernel).c_str());
    }

    void wait() override { check(opencl().Finish(queue_.get()), "finish"); }

    void read(int tensor, void* into) override {
        const auto number = static_cast<size_t>(tensor);
        const size_t bytes = plan_.tensors[number].bytes;
        void* memory = map(buffers_[number].get(), CL_MAP_READ, bytes);
        std::memcpy(into, memory, bytes);
        unmap(buffers_[number].get(), memory);
    }

private:
    std::set<std::string> extensions() const {
        std::istringstream words(device_text(device_, CL_DEVICE_EXTENSIONS));
        std::set<std::string> have;
        for (std::string word; words >> word;) have.insert(word);
        return have;
    }

    void require(const Bundle& bundle) const {
        const std::set<std::string> have = extensions();
        for (const std::string& extension : bundle.extensions) {
            if (have.count(extension) == 0) {
                throw Unsupported("the bundle needs " + extension + ", which " + name_ +
                                  " lacks; compile it with --fp16 rather than --fp16-arithmetic");
            }
        }
        if (device_value<cl_uint>(device_, CL_DEVICE_MEM_BASE_ADDR_ALIGN) > 8 * kAlignment) {
            throw Unsupported(name_ + " wants tensors further apart than bundles have them");
        }
    }

    void* map(cl_mem buffer, cl_bitfield how, size_t bytes) const {
        cl_int status = CL_SUCCESS;
        void* memory = opencl().EnqueueMapBuffer(queue_.get(), buffer, CL_TRUE, how, 0, bytes, 0,
                                                 nullptr, nullptr, &status);
        check(status, "show a buffer to the host, or run what comes before");
        return memory;
    }

    void unmap(cl_mem buffer, void* memory) const {
        check(opencl().EnqueueUnmapMemObject(queue_.get(), buffer, memory, 0, nullptr, nullptr),
              "take a buffer back from the host");
    }

    // Building. A cached program is a file: its content's hash, then the driver's binary.

    static constexpr size_t kHash = 64;
    static constexpr size_t kMaxBinary = size_t{1} << 28;

    // What a program may be built with, best first (graphopt/runtime/opencl.py, build_options).
    std::vector<std::string> build_options(const std::string& source) const {
        if (source.find("PLAIN_DOT") == std::string::npos) return {""};
        const std::set<std::string> have = extensions();
        std::vector<std::string> options;
        if (have.count("cl_khr_integer_dot_product") > 0) options = {"-cl-std=CL3.0", ""};
        for (const char* other :
             {"cl_arm_integer_dot_product_accumulate_int8", "cl_qcom_dot_product8"}) {
            if (options.empty() && have.count(other) > 0) options = {""};
        }
        options.push_back("-DPLAIN_DOT");
        return options;
    }

    void build(const std::string& source, const std::string& cache) {
        const std::vector<std::string> options = build_options(source);
        std::string file;
        if (!cache.empty()) {
            mkdir(cache.c_str(), 0700);  // may be there
            const std::string parts[] = {source, name_, device_text(device_, CL_DRIVER_VERSION),
                                         options.front()};
            std::string hashes;
            for (const std::string& part : parts) hashes += sha256(part);
            file = cache + "/" + sha256(hashes) + ".clbin";
            if (build_cached(file)) return;
        }
        if (std::none_of(options.begin(), options.end(), [&](const std::string& some) {
                return build_with(source, some);
            })) {
            throw Unsupported(name_ + " cannot compile the kernels: " + build_log());
        }
        if (!file.empty()) {
            const std::string binary = program_binary();
            // A cache that cannot be written makes starts slow, and nothing worse.
            if (!binary.empty()) write_file(file, sha256(binary) + binary);
        }
    }

    bool build_with(const std::string& source, const std::string& options) {
        const char* text = source.c_str();
        const size_t length = source.size();
        cl_int status = CL_SUCCESS;
        program_.reset(
            opencl().CreateProgramWithSource(context_.get(), 1, &text, &length, &status));
        check(status, "make a program");
        return opencl().BuildProgram(program_.get(), 1, &device_, options.c_str(), nullptr,
                                     nullptr) == CL_SUCCESS;
    }

    bool build_cached(const std::string& file) {
        std::string content;
        try {
            content = read_text(file, kMaxBinary);
        } catch (const BadInput&) {
            return false;
        }
        if (content.size() <= kHash) return false;
        const std::string binary = content.substr(kHash);
        if (content.compare(0, kHash, sha256(binary)) != 0) return false;
        const auto* data = reinterpret_cast<const unsigned char*>(binary.data());
        const size_t size = binary.size();
        cl_int status = CL_SUCCESS, of_binary = CL_SUCCESS;
        program_.reset(opencl().CreateProgramWithBinary(context_.get(), 1, &device_, &size, &data,
                                                        &of_binary, &status));
        return status == CL_SUCCESS && of_binary == CL_SUCCESS &&
               opencl().BuildProgram(program_.get(), 1, &device_, "", nullptr, nullptr) ==
                   CL_SUCCESS;
    }

    std::string build_log() const {
        std::string log(1 << 16, '\0');
        size_t size = 0;
        if (opencl().GetProgramBuildInfo(program_.get(), device_, CL_PROGRAM_BUILD_LOG, log.size(),
                                         log.data(), &size) != CL_SUCCESS) {
            return "no log";
        }
        return log.substr(0, log.find('\0'));
    }

    // Empty if the driver does not give it.
    std::string program_binary() const {
        size_t size = 0;
        if (opencl().GetProgramInfo(program_.get(), CL_PROGRAM_BINARY_SIZES, sizeof size, &size,
                                    nullptr) != CL_SUCCESS ||
            size == 0 || size > kMaxBinary - kHash) {
            return "";
        }
        std::string binary(size, '\0');
        char* data = binary.data();
        const cl_int status = opencl().GetProgramInfo(program_.get(), CL_PROGRAM_BINARIES,
                                                      sizeof data, &data, nullptr);
        return status == CL_SUCCESS ? binary : "";
    }

    // Memory. OpenCL has no empty buffers, and a network may have no weights.

    void place(Bundle& bundle) {
        std::set<int> visible;  // arenas that the host reads
        const Decoder& decoder = plan_.decoder;
        for (const int tensor :
             {decoder.people, decoder.worth, decoder.found, decoder.peaks, decoder.counts}) {
            if (tensor == Decoder::kNone) continue;
            visible.insert(plan_.tensors[static_cast<size_t>(tensor)].arena);
        }
        if (bundle.weights.size() > 0) {
            weights_ = buffer(CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, bundle.weights.size(),
                              bundle.weights.data());
        }
        weights_bytes_ = bundle.weights.size();
        bundle.weights = Memory();
        for (size_t i = 0; i < plan_.arenas.size(); ++i) {
            const bool shown = visible.count(static_cast<int>(i)) > 0;
            arenas_.push_back(buffer(CL_MEM_READ_WRITE | (shown ? CL_MEM_ALLOC_HOST_PTR : 0),
                                     plan_.arenas[i], nullptr));
        }
        for (const Tensor& tensor : plan_.tensors) buffers_.push_back(buffer_of(tensor));
    }

    Owned<cl_mem> buffer(cl_bitfield flags, size_t bytes, void* content) const {
        cl_int status = CL_SUCCESS;
        Owned<cl_mem> made(opencl().CreateBuffer(context_.get(), flags, std::max<size_t>(bytes, 1),
                                                 content, &status));
        check(status, ("make a buffer of " + std::to_string(bytes) + " bytes").c_str());
        return made;
    }

    cl_mem memory_of(const Tensor& tensor) const {
        return tensor.arena == Tensor::kWeights ? weights_.get()
                                                : arenas_[static_cast<size_t>(tensor.arena)].get();
    }

    size_t bytes_of_memory(const Tensor& tensor) const {
        return tensor.arena == Tensor::kWeights ? weights_bytes_
                                                : plan_.arenas[static_cast<size_t>(tensor.arena)];
    }

    Owned<cl_mem> buffer_of(const Tensor& tensor) const {
        if (tensor.arena == Tensor::kOwnMemory) {
            return buffer(CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR, tensor.bytes, nullptr);
        }
        const cl_buffer_region region = {tensor.offset, tensor.bytes};
        cl_int status = CL_SUCCESS;
        Owned<cl_mem> made(opencl().CreateSubBuffer(
            memory_of(tensor), 0, CL_BUFFER_CREATE_TYPE_REGION, &region, &status));
        check(status, "make a part of a buffer");
        return made;
    }

    // The memory of a tensor as an image of four-channel pixels; OpenCL makes none of sub-buffers.
    cl_mem image(int number) {
        Owned<cl_mem>& made = images_[number];
        if (made) return made.get();
        const Tensor& tensor = plan_.tensors[static_cast<size_t>(number)];
        const bool own = tensor.arena == Tensor::kOwnMemory, half = tensor.dtype->bits == 16;
        const size_t bytes = own ? tensor.bytes : bytes_of_memory(tensor);
        const size_t pixels = bytes / (half ? 8 : 16);
        if (device_value<cl_bool>(device_, CL_DEVICE_IMAGE_SUPPORT) != CL_TRUE ||
            pixels > device_value<size_t>(device_, CL_DEVICE_IMAGE_MAX_BUFFER_SIZE)) {
            throw Unsupported(name_ + " has no images of " + std::to_string(pixels) +
                              " pixels, which the bundle needs; compile it with --target opencl");
        }
        const cl_image_format format = {CL_RGBA, half ? CL_HALF_FLOAT : CL_FLOAT};
        cl_image_desc description{};
        description.type = CL_MEM_OBJECT_IMAGE1D_BUFFER;
        description.width = pixels;
        description.buffer = own ? buffers_[static_cast<size_t>(number)].get() : memory_of(tensor);
        cl_int status = CL_SUCCESS;
        made.reset(opencl().CreateImage(context_.get(), CL_MEM_READ_ONLY, &format, &description,
                                        nullptr, &status));
        check(status, "make an image");
        return made.get();
    }

    // A kernel object of its own for every launch: its arguments are set once.
    Owned<cl_kernel> kernel(const Launch& launch) {
        cl_int status = CL_SUCCESS;
        Owned<cl_kernel> kernel(
            opencl().CreateKernel(program_.get(), launch.kernel.c_str(), &status));
        if (status != CL_SUCCESS) {
            throw BadInput("the bundle's kernels.cl has no kernel " + launch.kernel);
        }
        cl_uint count = 0;
        check(
            opencl().GetKernelInfo(kernel.get(), CL_KERNEL_NUM_ARGS, sizeof count, &count, nullptr),
            "describe a kernel");
        if (count != launch.arguments.size()) {
            throw BadInput("the kernel " + launch.kernel + " takes " + std::to_string(count) +
                           " arguments, not the " + std::to_string(launch.arguments.size()) +
                           " of the plan");
        }
        for (cl_uint i = 0; i < count; ++i) {
            const int tensor = launch.arguments[i];
            cl_mem memory =
                launch.image[i] ? image(tensor) : buffers_[static_cast<size_t>(tensor)].get();
            check(opencl().SetKernelArg(kernel.get(), i, sizeof memory, &memory),
                  ("set the arguments of " + launch.kernel).c_str());
        }
        return kernel;
    }

    const Plan& plan_;
    cl_device_id device_;
    std::string name_;
    Owned<cl_context> context_;
    Owned<cl_command_queue> queue_;
    Owned<cl_program> program_;
    Owned<cl_mem> weights_;
    size_t weights_bytes_ = 0;
    std::vector<Owned<cl_mem>> arenas_, buffers_;  // buffers_: of each tensor
    std::map<int, Owned<cl_mem>> images_;
    std::vector<Owned<cl_kernel>> kernels_;  // of each launch
};

}  // namespace

std::unique_ptr<Backend> make_opencl_backend(Bundle& bundle, const std::string& cache) {
    return std::make_unique<OpenClBackend>(bundle, cache);
}

}  // namespace graphopt
