// A bundle on disk (graphopt/runtime/bundle.py has its format), read and checked: every number that is used
// later was compared with what it indexes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "levels.h"
#include "memory.h"

namespace graphopt {

// The bundle format that this runner reads (graphopt/runtime/plan.py, FORMAT).
constexpr int kFormat = 3;

enum class Stage { prepare, input, network, decode };
constexpr std::array<const char*, 4> kStageNames = {"prepare", "input", "network", "decode"};

// An element type: its name in plans and DLPack's code for it.
struct DType {
    const char* name;
    uint8_t code, bits;
};

struct Tensor {
    static constexpr int kWeights = -1, kOwnMemory = -2;

    std::vector<int64_t> shape;
    const DType* dtype = nullptr;
    int arena = kOwnMemory;  // or kWeights, or a number of Plan::arenas
    size_t offset = 0;       // in bytes, from the start of that memory
    size_t bytes = 0;

    bool is(const char* type, const std::vector<int64_t>& wanted) const;
};

struct Launch {
    std::string kernel, layer;
    std::vector<int> arguments;  // numbers of Plan::tensors
    std::vector<bool> image;     // whether an argument is read as an image
    std::vector<size_t> grid, group;
    int64_t macs = 0;
    Stage stage = Stage::network;
};

struct Preparation {
    int photo, geometry, columns, rows;  // tensors
    int side, neighbours;
    int pixel;  // bytes of a photo's pixel: 3, or 4, of which the last one counts for nothing
};

struct Decoder {
    static constexpr int kNone = -1;

    int thresholds = kNone;                            // a tensor; so are the outputs
    int people = kNone, worth = kNone, found = kNone;  // of a network of several people
    int peaks = kNone;                                 // of a network of one
    int counts = kNone;                                // of both
    int max_peaks = 0, max_people = 0;
    std::array<float, 5> defaults{};  // of the thresholds: codegen/kernels/peaks.py, THRESHOLDS
};

struct Plan {
    std::vector<size_t> arenas;  // bytes
    std::vector<Tensor> tensors;
    std::vector<Launch> launches;
    int input = 0;  // a tensor, float32 [1, 3, height, width]
    int height = 0, width = 0;
    bool has_preparation = false;
    Preparation preparation{};
    Decoder decoder{};
};

// How photos become inputs and maps become people (graphopt/pose/spec.py).
struct PoseSpec {
    bool bgr = false;
    std::array<float, 3> mean{}, scale{};
    float border = 0;
    std::string skeleton;
    std::vector<std::string> parts;
    bool single = false;  // a network of one person, without part affinity fields
    int stride = 1;
};

struct Bundle {
    std::string path;
    bool cpu = false;
    Level level = {"", {}, "plan.json", {"weights.bin"}, "kernels.so"};  // the chosen one
    std::vector<std::string> extensions;
    Plan plan;
    PoseSpec pose;
    Memory weights;
    std::string source;  // OpenCL C; empty for a cpu bundle

    std::string library() const { return path + "/" + level.code; }
};

// BadInput: says what is wrong, and what to do.
Bundle read_bundle(const std::string& path);

}  // namespace graphopt
