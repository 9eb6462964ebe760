// A picture that the caller lends us.
#pragma once

#include <cstddef>
#include <cstdint>

namespace graphopt {

struct Frame {
    enum class Format { rgb, nv21 };

    Format format;
    int width, height;
    const uint8_t* pixels;  // RGB, or luma
    size_t stride;          // bytes from a row to the next
    const uint8_t* chroma = nullptr;
    size_t chroma_stride = 0;

    // Row y as R, G, B; of a pixel of four bytes, the last one is 255.
    void row(int y, uint8_t* to, int pixel = 3) const;
};

}  // namespace graphopt
