// What the device runner prepares photos with, for comparison with Python's.
//
//     device_tables EXTENT SIZE…              the tables that scale EXTENT to SIZE, as integers
//     device_tables PHOTO.ppm WIDTH HEIGHT    the input that a photo becomes, as float32
//
// Both are written to stdout as they lie in memory.

#include <cstdio>
#include <cstdlib>
#include <string>

#include "../../../codegen/device/ppm.h"
#include "../../../codegen/device/resample.h"

using namespace graphopt;

template <class Value>
static void put(const std::vector<Value>& values) {
    std::fwrite(values.data(), sizeof(Value), values.size(), stdout);
}

int main(int count, char** arguments) {
    if (std::string(arguments[1]).find(".ppm") == std::string::npos) {
        for (int i = 1; i + 1 < count; i += 2) {
            const int size = std::atoi(arguments[i + 1]);
            const Table table = make_table(std::atoi(arguments[i]), size);
            put<int32_t>({table.most});
            put(table.as_rows(table.most, size));
        }
        return 0;
    }
    const Picture picture = read_ppm(arguments[1]);
    const Size canvas = {std::atoi(arguments[2]), std::atoi(arguments[3])};
    PoseSpec pose;
    pose.bgr = true;
    pose.mean = {123.675f, 116.28f, 103.53f};
    pose.scale = {0.0171247f, 0.0175070f, 0.0174292f};
    pose.border = 128;
    const auto stride = 3 * static_cast<size_t>(picture.width);
    const Frame frame = {Frame::Format::rgb, picture.width, picture.height, picture.pixels(), stride,
                         nullptr, 0};
    std::vector<float> input(3 * static_cast<size_t>(canvas.width) *
                             static_cast<size_t>(canvas.height));
    prepare_on_host(frame, fitted({picture.width, picture.height}, canvas), pose, input.data());
    put(input);
}
