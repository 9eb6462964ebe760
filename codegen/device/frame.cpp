#include "frame.h"

#include <algorithm>
#include <cstring>

namespace graphopt {
namespace {

// JFIF (ITU-T T.871): BT.601 with all of 0..255, in multiples of 2**-16.
constexpr int kBits = 16, kHalf = 1 << (kBits - 1);
constexpr int kRedOfV = 91881, kGreenOfU = 22554, kGreenOfV = 46802, kBlueOfU = 116130;

uint8_t clamped(int value) { return static_cast<uint8_t>(std::clamp(value >> kBits, 0, 255)); }

}  // namespace

void Frame::row(int y, uint8_t* to, int pixel) const {
    const uint8_t* from = pixels + static_cast<size_t>(y) * stride;
    if (format == Format::rgb && pixel == 3) {
        std::memcpy(to, from, 3 * static_cast<size_t>(width));
        return;
    }
    if (format == Format::rgb) {
        for (int x = 0; x < width; ++x, from += 3, to += 4) {
            to[0] = from[0], to[1] = from[1], to[2] = from[2], to[3] = 255;
        }
        return;
    }
    const uint8_t* v_u = chroma + static_cast<size_t>(y / 2) * chroma_stride;
    for (int x = 0; x < width; ++x, to += pixel) {
        const int luma = (from[x] << kBits) + kHalf;
        const int v = v_u[x / 2 * 2] - 128, u = v_u[x / 2 * 2 + 1] - 128;
        to[0] = clamped(luma + kRedOfV * v);
        to[1] = clamped(luma - kGreenOfU * u - kGreenOfV * v);
        to[2] = clamped(luma + kBlueOfU * u);
        if (pixel == 4) to[3] = 255;
    }
}

}  // namespace graphopt
