// Pictures as binary PPM (netpbm's P6), 8 bits a colour.
#pragma once

#include <cstddef>
#include <string>

#include "memory.h"

namespace graphopt {

struct Picture {
    int width, height;
    Memory file;
    size_t start;  // where its pixels begin in the file: rows of R, G, B

    const uint8_t* pixels() const { return file.data() + start; }
};

// BadInput: it cannot be read, or is another kind of picture.
Picture read_ppm(const std::string& path);

}  // namespace graphopt
