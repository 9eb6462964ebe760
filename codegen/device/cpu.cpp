// Kernels of a shared library that TVM compiled, called in order on views of the arenas
// (graphopt/runtime/runner.py, CpuRunner), without TVM's runtime: what they need of it is here.

#include <dlfcn.h>
#include <algorithm>
#include <set>

#include "backend.h"
#include "denormals.h"
#include "levels.h"
#include "thread_pool.h"
#include "tvm_abi.h"

namespace graphopt {
namespace {

// Kernels call back without saying for whom: the pool of the runner that this thread works for, and
// what a kernel said when it failed.
thread_local ThreadPool* current_pool = nullptr;
thread_local std::string kernel_error;

// Memory that kernels ask for while they run. They give it back soon, and then ask for the same.
class Workspaces {
public:
    void* get(size_t bytes) {
        const auto fitting = std::find_if(free_.begin(), free_.end(), [&](const Memory& memory) {
            return memory.size() >= bytes;
        });
        if (fitting == free_.end()) {
            used_.emplace_back(bytes);
        } else {
            used_.push_back(std::move(*fitting));
            free_.erase(fitting);
        }
        return used_.back().data();
    }

    void put(const void* data) {
        const auto found = std::find_if(used_.begin(), used_.end(), [&](const Memory& memory) {
            return memory.data() == data;
        });
        if (found == used_.end()) return;
        free_.push_back(std::move(*found));
        used_.erase(found);
    }

private:
    std::vector<Memory> used_, free_;
};

thread_local Workspaces workspaces;

void* alloc_workspace(int, int, uint64_t bytes, int, int) {
    try {
        return workspaces.get(bytes);
    } catch (...) {  // no exception may cross a kernel; it looks for null
        return nullptr;
    }
}

int free_workspace(int, int, void* memory) {
    workspaces.put(memory);
    return 0;
}

int parallel_launch(TVMParallelLambda body, void* data, int tasks) {
    ThreadPool& pool = *current_pool;
    TVMParallelGroupEnv environment = {nullptr, tasks > 0 ? tasks : pool.threads()};
    std::mutex mutex;
    std::string error;  // what a task said, on whichever thread
    const bool good = pool.run(environment.num_task, [&](int task) {
        if (body(task, &environment, data) == 0) return true;
        const std::lock_guard<std::mutex> lock(mutex);
        error = kernel_error;
        return false;
    });
    if (!good) kernel_error = error;
    return good ? 0 : -1;
}

// A shared library of kernels.
class Library {
public:
    explicit Library(const std::string& path) {
        // Where this code is in a library that was loaded for its program alone, kernels would not
        // find our symbols. (Android does not listen: kernels for it name libgraphopt.so.)
        Dl_info self;
        if (dladdr(reinterpret_cast<void*>(&TVMFFIErrorSetRaisedFromCStrParts), &self) != 0) {
            dlopen(self.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
        }
        // Without a slash, dlopen would look for it elsewhere.
        const std::string place = path.find('/') == 0 ? path : "./" + path;
        library_ = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (library_ == nullptr)
            throw Unsupported(std::string("cannot load the kernels: ") + dlerror());
        set<TVMParallelLaunch>("__TVMBackendParallelLaunch", parallel_launch);
        set<TVMAllocWorkspace>("__TVMBackendAllocWorkspace", alloc_workspace);
        set<TVMFreeWorkspace>("__TVMBackendFreeWorkspace", free_workspace);
    }

    ~Library() { dlclose(library_); }
    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;

    TVMFFIKernel kernel(const std::string& name) const {
        void* found = dlsym(library_, ("__tvm_ffi_" + name).c_str());
        if (found == nullptr) throw BadInput("the bundle's kernels.so has no kernel " + name);
        return reinterpret_cast<TVMFFIKernel>(found);
    }

private:
    // Point a variable of the library to a function; it is there only if a kernel uses it.
    template <class Function>
    void set(const char* name, Function function) {
        if (void* variable = dlsym(library_, name)) *static_cast<Function*>(variable) = function;
    }

    void* library_;
};

// A kernel's arguments, set once. It refers to its own members, so it stays where it is.
struct View {
    View(const Tensor& tensor, void* data) : shape(tensor.shape), strides(tensor.shape.size(), 1) {
        for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
        view = {data,
                {kDLCPU, 0},
                static_cast<int32_t>(shape.size()),
                {tensor.dtype->code, tensor.dtype->bits, 1},
                shape.data(),
                strides.data(),
                0};
    }
    View(const View&) = delete;
    View& operator=(const View&) = delete;

    std::vector<int64_t> shape, strides;
    DLTensor view;
};

class CpuBackend : public Backend {
public:
    CpuBackend(Bundle& bundle, int threads)
        : plan_(bundle.plan),
          level_(bundle.level.name),
          library_(library_of(bundle)),
          weights_(std::move(bundle.weights)),
          pool_(threads) {
        for (const size_t bytes : plan_.arenas) arenas_.emplace_back(bytes);
        for (const Tensor& tensor : plan_.tensors) {
            views_.push_back(std::make_unique<View>(tensor, memory_of(tensor) + tensor.offset));
        }
        for (const Launch& launch : plan_.launches) {
            Call call = {library_.kernel(launch.kernel), {}};
            for (const int tensor : launch.arguments) {
                TVMFFIAny argument{};
                argument.type_index = kTVMFFIDLTensorPtr;
                argument.v_ptr = &views_[static_cast<size_t>(tensor)]->view;
                call.arguments.push_back(argument);
            }
            calls_.push_back(std::move(call));
        }
    }

    std::string device() const override { return level_.empty() ? "cpu" : "cpu, " + level_; }

    void write(int tensor, size_t, const std::function<void(void*)>& fill) override {
        fill(data(tensor));
    }

    void launch(size_t number) override {
        const Call& call = calls_[number];
        const DenormalsAreZero here;  // workers have their own
        current_pool = &pool_;
        kernel_error.clear();
        TVMFFIAny result{};
        if (call.kernel(nullptr, call.arguments.data(), static_cast<int32_t>(call.arguments.size()),
                        &result) != 0) {
            throw Unsupported("the kernel " + plan_.launches[number].kernel +
                              " failed: " + kernel_error);
        }
    }

    void wait() override {}  // a launch returns when it is done

    void read(int tensor, void* into) override {
        const auto* from = static_cast<const uint8_t*>(data(tensor));
        std::copy_n(from, plan_.tensors[static_cast<size_t>(tensor)].bytes,
                    static_cast<uint8_t*>(into));
    }

private:
    struct Call {
        TVMFFIKernel kernel;
        std::vector<TVMFFIAny> arguments;
    };

    // Where the kernels are, if this CPU can run them.
    static std::string library_of(const Bundle& bundle) {
        const std::set<std::string> have = cpu_features();
        for (const std::string& feature : bundle.level.features) {
            if (have.count(feature) == 0) {
                throw Unsupported(bundle.path + " was compiled for a CPU with " + feature +
                                  ", which this one lacks; compile it for this one");
            }
            if (feature == "amx_tile" && !permit_tiles()) {
                throw Unsupported(bundle.path +
                                  " needs the CPU's AMX, of which this system gives no use");
            }
        }
        return bundle.library();
    }

    uint8_t* memory_of(const Tensor& tensor) {
        if (tensor.arena == Tensor::kWeights) return weights_.data();
        if (tensor.arena != Tensor::kOwnMemory) {
            return arenas_[static_cast<size_t>(tensor.arena)].data();
        }
        own_.emplace_back(tensor.bytes);
        return own_.back().data();
    }

    void* data(int tensor) const { return views_[static_cast<size_t>(tensor)]->view.data; }

    const Plan& plan_;
    const std::string level_;
    Library library_;
    Memory weights_;
    std::vector<Memory> arenas_, own_;
    std::vector<std::unique_ptr<View>> views_;  // of each tensor
    std::vector<Call> calls_;                   // of each launch
    ThreadPool pool_;  // the last member: its threads end before the kernels' library goes
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(Bundle& bundle, int threads) {
    return std::make_unique<CpuBackend>(bundle, threads);
}

}  // namespace graphopt

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
    std::string& error = graphopt::kernel_error;
    error = kind;
    error += ": ";
    for (int32_t i = 0; i < count; ++i) {
        if (parts[i] != nullptr) error += parts[i];
    }
}
