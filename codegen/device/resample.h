// From a photo to a network's input: where it goes, and the tables that scale it. The meaning is
// that of graphopt/pose/preprocess.py (`fitted`, `prepare`) and graphopt/pose/resample.py, to the
// last bit.
#pragma once

#include <cstdint>
#include <vector>

#include "bundle.h"
#include "frame.h"

namespace graphopt {

constexpr int kTableHead = 2;  // rows of a table before the weights
constexpr int kGeometry = 6;   // numbers that say where a photo lies

struct Size {
    int width, height;

    bool operator==(const Size& other) const {
        return width == other.width && height == other.height;
    }
};

// A photo's place in a network's input.
struct Fit {
    Size photo;
    Size size;      // what it is scaled to …
    Size canvas;    // … in an input of this size …
    int left, top;  // … that has its first column and row here

    std::vector<int32_t> geometry() const {
        return {photo.height, photo.width, size.height, size.width, top, left};
    }
};

Fit fitted(Size photo, Size canvas);

// How the pixels of a scaled row are made: each of a first neighbour and as many as it has, by
// weights in multiples of 2**-22.
struct Table {
    std::vector<int> first, count;
    std::vector<int32_t> weights;  // [pixel][most neighbours]
    int most = 0;

    // As kernels read it: [kTableHead + neighbours][width]. There must be room.
    std::vector<int32_t> as_rows(int neighbours, int width) const;
};

// `size` pixels of `extent`.
Table make_table(int extent, int size);

// Scale, pad and normalise on the host, into [3][canvas.height][canvas.width].
void prepare_on_host(const Frame& photo, const Fit& fit, const PoseSpec& pose, float* input);

}  // namespace graphopt
