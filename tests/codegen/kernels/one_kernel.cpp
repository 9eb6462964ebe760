// One kernel on operands from files, by the device runner's backend.
//
//     one_kernel LIBRARY FEATURES OPERANDS
//
// LIBRARY is a folder with kernels.so, whose kernel is `k`; FEATURES is what its CPU must have,
// separated by commas. OPERANDS is a file of lines "TYPE EXTENT… FILE", a tensor each, in the order
// of the kernel's parameters; what the last of them holds in the end is written to its file.

#include <cstdio>
#include <fstream>
#include <sstream>

#include "../../../codegen/device/backend.h"
#include "../../../codegen/device/error.h"

using namespace graphopt;

static const DType kTypes[] = {
    {"float32", 2, 32}, {"int8", 0, 8},    {"int32", 0, 32},
    {"uint8", 1, 8},    {"uint16", 1, 16}, {"float16", 2, 16}};

int main(int, char** arguments) try {
    Bundle bundle;
    bundle.path = arguments[1];
    bundle.cpu = true;
    std::istringstream features(arguments[2]);
    for (std::string name; std::getline(features, name, ',');) bundle.level.features.push_back(name);
    Launch launch;
    launch.kernel = "k";
    std::vector<std::string> files;
    std::ifstream operands(arguments[3]);
    for (std::string line; std::getline(operands, line);) {
        std::istringstream words(line);
        std::string type;
        words >> type;
        Tensor tensor;
        for (const DType& known : kTypes) {
            if (type == known.name) tensor.dtype = &known;
        }
        tensor.bytes = tensor.dtype->bits / 8;
        for (int64_t extent; words >> extent;) {
            tensor.shape.push_back(extent);
            tensor.bytes *= static_cast<size_t>(extent);
        }
        words.clear();
        words >> files.emplace_back();
        launch.arguments.push_back(static_cast<int>(bundle.plan.tensors.size()));
        bundle.plan.tensors.push_back(tensor);
    }
    bundle.plan.launches.push_back(launch);
    const std::vector<Tensor> tensors = bundle.plan.tensors;
    const auto backend = make_cpu_backend(bundle, 1);
    for (size_t i = 0; i + 1 < tensors.size(); ++i) {
        std::ifstream file(files[i], std::ios::binary);
        backend->write(static_cast<int>(i), tensors[i].bytes, [&](void* to) {
            file.read(static_cast<char*>(to), static_cast<std::streamsize>(tensors[i].bytes));
        });
    }
    backend->launch(0);
    backend->wait();
    std::vector<char> result(tensors.back().bytes);
    backend->read(static_cast<int>(tensors.size()) - 1, result.data());
    std::ofstream(files.back(), std::ios::binary)
        .write(result.data(), static_cast<std::streamsize>(result.size()));
    return 0;
} catch (const Unsupported& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 4;
}
