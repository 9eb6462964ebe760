// What runs a plan's launches.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "bundle.h"

namespace graphopt {

class Backend {
public:
    virtual ~Backend() = default;

    // What it works on.
    virtual std::string device() const = 0;

    // Let `fill` write the first `bytes` of a tensor that has memory of its own.
    virtual void write(int tensor, size_t bytes, const std::function<void(void*)>& fill) = 0;

    // Begin a launch, after those that were begun before.
    virtual void launch(size_t number) = 0;

    // Until everything that was begun is done.
    virtual void wait() = 0;

    // Copy a tensor, when everything that was begun is done.
    virtual void read(int tensor, void* into) = 0;
};

// Both take what they need out of the bundle. Unsupported: this device cannot run it.
std::unique_ptr<Backend> make_cpu_backend(Bundle& bundle, int threads);
std::unique_ptr<Backend> make_opencl_backend(Bundle& bundle, const std::string& cache);

}  // namespace graphopt
