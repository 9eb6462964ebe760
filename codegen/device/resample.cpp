#include "resample.h"

#include <algorithm>
#include <cmath>

namespace graphopt {
namespace {

constexpr int kPrecision = 22;
constexpr double kSupport = 2.0;  // of the bicubic filter, in pixels of the smaller picture

double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < kSupport ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

uint8_t rounded(int32_t total) {
    return static_cast<uint8_t>(std::clamp(total >> kPrecision, 0, 255));
}

constexpr int32_t kHalf = 1 << (kPrecision - 1);

// Python's round: halves to the even number, as the default rounding mode has it.
int scaled(int extent, double scale) {
    return std::max(1, static_cast<int>(std::nearbyint(extent * scale)));
}

}  // namespace

Fit fitted(Size photo, Size canvas) {
    const double scale = std::min(static_cast<double>(canvas.width) / photo.width,
                                  static_cast<double>(canvas.height) / photo.height);
    const Size size = {scaled(photo.width, scale), scaled(photo.height, scale)};
    return {photo, size, canvas, (canvas.width - size.width) / 2,
            (canvas.height - size.height) / 2};
}

Table make_table(int extent, int size) {
    const double scale = static_cast<double>(extent) / size;
    const double stretch = std::max(scale, 1.0), reach = kSupport * stretch;
    const auto pixels = static_cast<size_t>(size);
    Table table;
    table.first.resize(pixels), table.count.resize(pixels);
    for (size_t i = 0; i < pixels; ++i) {
        const double center = (static_cast<double>(i) + 0.5) * scale;
        table.first[i] = static_cast<int>(std::max(center - reach + 0.5, 0.0));
        const double end = std::min(center + reach + 0.5, static_cast<double>(extent));
        table.count[i] = static_cast<int>(end) - table.first[i];
        table.most = std::max(table.most, table.count[i]);
    }
    const auto most = static_cast<size_t>(table.most);
    table.weights.resize(pixels * most);
    std::vector<double> weights(most);
    for (size_t i = 0; i < pixels; ++i) {
        const double center = (static_cast<double>(i) + 0.5) * scale;
        double sum = 0;
        for (int k = 0; k < table.count[i]; ++k) {
            const double distance = k + table.first[i] - center + 0.5;
            sum += weights[static_cast<size_t>(k)] = bicubic(distance * (1 / stretch));
        }
        for (int k = 0; k < table.count[i]; ++k) {
            const double weight = weights[static_cast<size_t>(k)] / sum * (1 << kPrecision);
            table.weights[i * most + static_cast<size_t>(k)] =
                static_cast<int32_t>(weight + std::copysign(0.5, weight));
        }
    }
    return table;
}

std::vector<int32_t> Table::as_rows(int neighbours, int width) const {
    const auto across = static_cast<size_t>(width), wide = static_cast<size_t>(most);
    std::vector<int32_t> rows((kTableHead + static_cast<size_t>(neighbours)) * across);
    for (size_t i = 0; i < first.size(); ++i) {
        rows[i] = first[i];
        rows[across + i] = count[i];
        for (size_t k = 0; k < wide; ++k)
            rows[(kTableHead + k) * across + i] = weights[i * wide + k];
    }
    return rows;
}

void prepare_on_host(const Frame& photo, const Fit& fit, const PoseSpec& pose, float* input) {
    // Along rows first, each as it is read, to whole numbers; then along columns.
    const Table columns = make_table(fit.photo.width, fit.size.width);
    const Table rows = make_table(fit.photo.height, fit.size.height);
    const auto across = static_cast<size_t>(fit.size.width);
    std::vector<uint8_t> pixels(3 * static_cast<size_t>(photo.width));
    std::vector<uint8_t> narrow(3 * across * static_cast<size_t>(photo.height));
    for (int y = 0; y < photo.height; ++y) {
        photo.row(y, pixels.data());
        uint8_t* to = narrow.data() + 3 * across * static_cast<size_t>(y);
        for (size_t x = 0; x < across; ++x, to += 3) {
            const uint8_t* from = pixels.data() + 3 * static_cast<size_t>(columns.first[x]);
            const int32_t* weights = &columns.weights[x * static_cast<size_t>(columns.most)];
            int32_t sums[3] = {kHalf, kHalf, kHalf};
            for (int k = 0; k < columns.count[x]; ++k, from += 3) {
                for (int c = 0; c < 3; ++c) sums[c] += weights[k] * from[c];
            }
            for (int c = 0; c < 3; ++c) to[c] = rounded(sums[c]);
        }
    }

    const auto width = static_cast<size_t>(fit.canvas.width);
    const size_t plane = width * static_cast<size_t>(fit.canvas.height);
    for (size_t channel = 0; channel < 3; ++channel) {
        const float border = (pose.border - pose.mean[channel]) * pose.scale[channel];
        std::fill_n(input + channel * plane, plane, border);
    }
    std::vector<int32_t> sums(3 * across);
    for (int row = 0; row < fit.size.height; ++row) {
        const auto at = static_cast<size_t>(row);
        std::fill(sums.begin(), sums.end(), kHalf);
        for (int k = 0; k < rows.count[at]; ++k) {
            const int32_t weight =
                rows.weights[at * static_cast<size_t>(rows.most) + static_cast<size_t>(k)];
            const uint8_t* from =
                narrow.data() + 3 * across * static_cast<size_t>(rows.first[at] + k);
            for (size_t i = 0; i < sums.size(); ++i) sums[i] += weight * from[i];
        }
        float* to =
            input + static_cast<size_t>(fit.top + row) * width + static_cast<size_t>(fit.left);
        for (size_t c = 0; c < 3; ++c) {
            const size_t channel = pose.bgr ? 2 - c : c;
            for (size_t x = 0; x < across; ++x) {
                const float value = rounded(sums[3 * x + c]);
                to[channel * plane + x] = (value - pose.mean[channel]) * pose.scale[channel];
            }
        }
    }
}

}  // namespace graphopt
