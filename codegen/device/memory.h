// Bytes whose start suits every kernel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "error.h"

namespace graphopt {

// Where tensors start: a multiple of this many bytes (graphopt/runtime/plan.py, ALIGNMENT).
constexpr size_t kAlignment = 512;

// Uninitialised bytes at a multiple of kAlignment.
class Memory {
public:
    Memory() = default;

    explicit Memory(size_t size) : size_(size) {
        void* data = nullptr;
        if (posix_memalign(&data, kAlignment, size > 0 ? size : 1) != 0) {
            throw Unsupported("there is no memory for " + std::to_string(size) + " bytes");
        }
        data_.reset(static_cast<uint8_t*>(data));
    }

    uint8_t* data() { return data_.get(); }
    const uint8_t* data() const { return data_.get(); }
    size_t size() const { return size_; }

private:
    struct Free {
        void operator()(uint8_t* data) const { std::free(data); }
    };

    std::unique_ptr<uint8_t, Free> data_;
    size_t size_ = 0;
};

}  // namespace graphopt
