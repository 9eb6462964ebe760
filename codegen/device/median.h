// The middle of what was measured.
#pragma once

#include <algorithm>
#include <vector>

namespace graphopt {

// Of at least one value.
inline double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

}  // namespace graphopt
