#include "bundle.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "files.h"
#include "json.h"
#include "resample.h"
#include "sha256.h"

namespace graphopt {
namespace {

constexpr int64_t kMaxMemory = int64_t{1} << 31;  // of a tensor, an arena, the weights
constexpr int64_t kMaxTotal = int64_t{1} << 32;   // of everything that a bundle asks for
constexpr int64_t kMaxText = int64_t{1} << 26;    // of a file of text
constexpr int64_t kMaxInt = std::numeric_limits<int>::max();

constexpr double kMaxThreshold = 1 << 24;

constexpr char kAgain[] = "; compile it again: graphopt compile MODEL.onnx -o BUNDLE";

constexpr std::array<DType, 12> kTypes = {{
    {"float32", 2, 32},
    {"float16", 2, 16},
    {"float64", 2, 64},
    {"int8", 0, 8},
    {"int16", 0, 16},
    {"int32", 0, 32},
    {"int64", 0, 64},
    {"uint8", 1, 8},
    {"uint16", 1, 16},
    {"uint32", 1, 32},
    {"uint64", 1, 64},
    {"bool", 6, 8},
}};

int integer(const Json& json, int64_t least = 0, int64_t most = kMaxInt) {
    return static_cast<int>(json.integer(least, most));
}

// One of a bundle's files, if it is the one that its manifest speaks of.
Memory read_listed(const std::string& folder, const Json& files, const std::string& name,
                   int64_t most) {
    const Json file = files[name];
    const auto size = static_cast<size_t>(file["bytes"].integer(0, most));
    const std::string path = folder + "/" + name;
    Memory content = read_file(path, static_cast<size_t>(most));
    if (content.size() != size || sha256(content.data(), size) != file["sha256"].string()) {
        throw BadInput(path + " is damaged: not what its manifest says" + kAgain);
    }
    return content;
}

// Several, one behind the other.
Memory read_listed(const std::string& folder, const Json& files,
                   const std::vector<std::string>& names, int64_t most) {
    if (names.size() == 1) return read_listed(folder, files, names.front(), most);
    int64_t size = 0;
    for (const std::string& name : names) size += files[name]["bytes"].integer(0, most - size);
    Memory all(static_cast<size_t>(size));
    uint8_t* end = all.data();
    for (const std::string& name : names) {
        const Memory one = read_listed(folder, files, name, most);
        end = std::copy_n(one.data(), one.size(), end);
    }
    return all;
}

std::string_view text_of(const Memory& memory) {
    return {reinterpret_cast<const char*>(memory.data()), memory.size()};
}

std::vector<std::string> read_strings(const Json& json) {
    std::vector<std::string> strings;
    for (const Json& item : json.items()) strings.push_back(item.string());
    return strings;
}

class PlanReader {
public:
    PlanReader(const Json& json, const Bundle& bundle) : json_(json), bundle_(bundle) {}

    Plan read() {
        for (const Json& item : json_["arenas"].items()) {
            plan_.arenas.push_back(static_cast<size_t>(counted(item.integer(0, kMaxMemory), item)));
        }
        for (const Json& item : json_["tensors"].items()) plan_.tensors.push_back(tensor(item));
        for (const Json& item : json_["launches"].items()) plan_.launches.push_back(launch(item));
        read_input();
        read_preparation();
        read_decoder();
        return std::move(plan_);
    }

private:
    // A number of bytes, which the total has room for.
    int64_t counted(int64_t bytes, const Json& where) {
        total_ += bytes;
        if (total_ > kMaxTotal) where.wrong("asks for too much memory");
        return bytes;
    }

    Tensor tensor(const Json& json) {
        Tensor tensor;
        const std::string& type = json["dtype"].string();
        const auto found = std::find_if(kTypes.begin(), kTypes.end(),
                                        [&](const DType& known) { return known.name == type; });
        if (found == kTypes.end()) json["dtype"].wrong("is unknown: " + type);
        tensor.dtype = &*found;
        int64_t bytes = found->bits / 8;
        for (const Json& item : json["shape"].items()) {
            const int64_t extent = item.integer(1, kMaxMemory);
            if (bytes > kMaxMemory / extent) json["shape"].wrong("is too large");
            bytes *= extent;
            tensor.shape.push_back(extent);
        }
        tensor.bytes = static_cast<size_t>(bytes);
        const Json arena = json["arena"];
        tensor.offset = static_cast<size_t>(json["offset"].integer(0, kMaxMemory));
        if (arena.is_null()) {
            counted(bytes, json);
            if (tensor.offset != 0) json["offset"].wrong("is not 0");
            return tensor;
        }
        const auto last = static_cast<int64_t>(plan_.arenas.size()) - 1;
        tensor.arena = integer(arena, Tensor::kWeights, last);
        const size_t room = tensor.arena == Tensor::kWeights
                                ? bundle_.weights.size()
                                : plan_.arenas[static_cast<size_t>(tensor.arena)];
        if (tensor.offset % kAlignment != 0 || tensor.offset > room ||
            tensor.bytes > room - tensor.offset) {
            json.wrong("does not fit into its memory");
        }
        return tensor;
    }

    Launch launch(const Json& json) {
        Launch launch;
        launch.kernel = json["kernel"].string();
        launch.layer = json["layer"].string();
        launch.macs = json["macs"].integer(0, std::numeric_limits<int64_t>::max());
        launch.stage = stage(json["stage"]);
        for (const Json& item : json["arguments"].items()) {
            launch.arguments.push_back(tensor_number(item));
        }
        launch.image.resize(launch.arguments.size());
        const auto last = static_cast<int64_t>(launch.arguments.size()) - 1;
        for (const Json& item : json["images"].items()) {
            const auto position = static_cast<size_t>(item.integer(0, last));
            const Tensor& seen = plan_.tensors[static_cast<size_t>(launch.arguments[position])];
            if (seen.offset != 0) item.wrong("is not at the start of its memory");
            launch.image[position] = true;
        }
        launch.grid = work_size(json["grid"]);
        launch.group = work_size(json["group"]);
        const size_t dimensions = launch.grid.size();
        if (dimensions != launch.group.size() || dimensions > 3 ||
            bundle_.cpu != (dimensions == 0)) {
            json["grid"].wrong("does not go with its group, or the target");
        }
        for (size_t i = 0; i < dimensions; ++i) {
            if (launch.grid[i] % launch.group[i] != 0)
                json["grid"].wrong("is no multiple of its group");
        }
        return launch;
    }

    static std::vector<size_t> work_size(const Json& json) {
        std::vector<size_t> sizes;
        for (const Json& item : json.items()) {
            sizes.push_back(static_cast<size_t>(item.integer(1, kMaxInt)));
        }
        return sizes;
    }

    static Stage stage(const Json& json) {
        const std::string& name = json.string();
        const auto found = std::find(kStageNames.begin(), kStageNames.end(), name);
        if (found == kStageNames.end()) json.wrong("is unknown: " + name);
        return static_cast<Stage>(found - kStageNames.begin());
    }

    int tensor_number(const Json& json) const {
        return integer(json, 0, static_cast<int64_t>(plan_.tensors.size()) - 1);
    }

    // The number of a tensor of this type and shape.
    int tensor_number(const Json& json, const char* type, const std::vector<int64_t>& shape) const {
        const int number = tensor_number(json);
        if (!plan_.tensors[static_cast<size_t>(number)].is(type, shape)) {
            json.wrong("is a tensor of another type or shape");
        }
        return number;
    }

    // The same for a tensor that the host writes.
    int given(const Json& json, const char* type, const std::vector<int64_t>& shape) const {
        const int number = tensor_number(json, type, shape);
        if (plan_.tensors[static_cast<size_t>(number)].arena != Tensor::kOwnMemory) {
            json.wrong("has no memory of its own");
        }
        return number;
    }

    void read_input() {
        const Json inputs = json_["inputs"];
        if (inputs.keys().size() != 1) {
            throw BadInput(bundle_.path + " has " + std::to_string(inputs.keys().size()) +
                           " inputs; a pose network has one, a picture");
        }
        const Json input = inputs[inputs.keys().front()];
        plan_.input = tensor_number(input);
        const std::vector<int64_t>& shape = plan_.tensors[static_cast<size_t>(plan_.input)].shape;
        if (shape.size() != 4 || std::max(shape[2], shape[3]) > GRAPHOPT_MAX_SIDE) {
            input.wrong("is no picture");
        }
        given(input, "float32", {1, 3, shape[2], shape[3]});
        plan_.height = static_cast<int>(shape[2]);
        plan_.width = static_cast<int>(shape[3]);
    }

    void read_preparation() {
        const Json json = json_["preparation"];
        if (json.is_null()) return;  // the host prepares
        plan_.has_preparation = true;
        Preparation& to = plan_.preparation;
        to.side = integer(json["side"], 1, GRAPHOPT_MAX_SIDE);
        to.neighbours = integer(json["neighbours"], 1, 8 * GRAPHOPT_MAX_SIDE);
        const int64_t side = to.side, rows = kTableHead + to.neighbours;
        // In older bundles there is nothing beside the colours.
        to.pixel = json.has("pixel") ? integer(json["pixel"], 3, 4) : 3;
        to.photo = given(json["photo"], "uint8", {side * side * to.pixel});
        to.geometry = given(json["geometry"], "int32", {kGeometry});
        to.columns = given(json["columns"], "int32", {rows, plan_.width});
        to.rows = given(json["rows"], "int32", {rows, plan_.height});
    }

    void read_decoder() {
        const Json json = json_["decoder"];
        if (json.is_null()) {
            throw BadInput(bundle_.path +
                           " has no decoder: compile it with one, which is graphopt compile's "
                           "default (--post paf)");
        }
        Decoder& to = plan_.decoder;
        const auto parts = static_cast<int64_t>(bundle_.pose.parts.size());
        to.max_peaks = integer(json["max_peaks"], 1);
        to.max_people = integer(json["max_people"], 1);
        read_thresholds(json);
        const Json outputs = json["outputs"];
        to.counts = tensor_number(outputs["counts"], "int32", {parts, 3});
        if (bundle_.pose.single) {
            to.peaks = tensor_number(outputs["peaks"], "float32", {parts, 1, 3});
        } else {
            to.people = tensor_number(outputs["people"], "float32", {to.max_people, parts, 3});
            to.worth = tensor_number(outputs["worth"], "float32", {to.max_people});
            to.found = tensor_number(outputs["found"], "int32", {2});
        }
    }

    void read_thresholds(const Json& json) {
        Decoder& to = plan_.decoder;
        to.thresholds =
            given(json["thresholds"], "float32", {static_cast<int64_t>(to.defaults.size())});
        const Json defaults = json["defaults"];
        const std::vector<Json> items = defaults.items();
        if (items.size() != to.defaults.size()) defaults.wrong("are not five numbers");
        for (size_t i = 0; i < items.size(); ++i) {
            const double value = items[i].real();
            // Kernels take some as whole numbers.
            if (!(std::fabs(value) <= kMaxThreshold)) items[i].wrong("is too large");
            to.defaults[i] = static_cast<float>(value);
        }
    }

    const Json& json_;
    const Bundle& bundle_;
    Plan plan_;
    int64_t total_ = 0;
};

std::array<float, 3> read_triple(const Json& json) {
    const std::vector<Json> items = json.items();
    if (items.size() != 3) json.wrong("is not three numbers");
    std::array<float, 3> triple;
    for (size_t i = 0; i < 3; ++i) triple[i] = static_cast<float>(items[i].real());
    return triple;
}

PoseSpec read_pose(const Json& json) {
    PoseSpec pose;
    const Json preprocess = json["preprocess"], color = preprocess["color"];
    pose.bgr = color.string() == "bgr";
    if (!pose.bgr && color.string() != "rgb") color.wrong("is not bgr or rgb");
    pose.mean = read_triple(preprocess["mean"]);
    pose.scale = read_triple(preprocess["scale"]);
    pose.border = static_cast<float>(preprocess["pad_value"].real());
    const Json skeleton = json["skeleton"], parts = skeleton["parts"];
    pose.skeleton = skeleton["name"].string();
    for (const Json& part : parts.items()) pose.parts.push_back(part["name"].string());
    if (pose.parts.empty() || pose.parts.size() > GRAPHOPT_MAX_PARTS) {
        parts.wrong("are not 1 to " + std::to_string(GRAPHOPT_MAX_PARTS));
    }
    pose.single = json["paf"].is_null();
    pose.stride = integer(json["stride"], 1, GRAPHOPT_MAX_SIDE);
    return pose;
}

// The name of a file in the bundle's folder.
std::string file_name(const Json& json) {
    const std::string& name = json.string();
    if (name.find('/') != std::string::npos) json.wrong("is not the name of a file");
    return name;
}

Level read_level(const Json& json) {
    Level level = {json["name"].string(), read_strings(json["features"]), file_name(json["plan"]),
                   {}, file_name(json["code"])};
    for (const Json& name : json["weights"].items()) level.weights.push_back(file_name(name));
    return level;
}

// The files that this machine needs.
Level choose_level(const Json& manifest, const Bundle& bundle) {
    Level only = bundle.level;
    only.features = read_strings(manifest["target"]["cpu_features"]);
    if (!bundle.cpu) only.code = "kernels.cl";
    std::vector<Level> levels;
    if (bundle.cpu && manifest.has("levels")) {  // older ones have not
        for (const Json& item : manifest["levels"].items()) levels.push_back(read_level(item));
    }
    return levels.empty() ? only : best_level(levels, bundle.path);
}

}  // namespace

bool Tensor::is(const char* type, const std::vector<int64_t>& wanted) const {
    return std::string_view(dtype->name) == type && shape == wanted;
}

Bundle read_bundle(const std::string& path) {
    Bundle bundle;
    bundle.path = path;
    std::string text;
    try {
        text = read_text(path + "/manifest.json", kMaxText);
    } catch (const BadInput& error) {
        throw BadInput(path + " is not a bundle: " + error.what() +
                       "; graphopt compile MODEL.onnx -o BUNDLE makes one");
    }
    const JsonValue manifest_value = parse_json(text, path + "/manifest.json");
    const Json manifest(manifest_value, path + "/manifest.json:");
    const int64_t format = manifest["format"].integer(0, kMaxInt);
    if (format != kFormat) {
        throw BadInput(path + " has bundle format " + std::to_string(format) +
                       "; this runner reads " + std::to_string(kFormat) + kAgain);
    }
    const Json target = manifest["target"], kind = target["kind"];
    bundle.cpu = kind.string() == "cpu";
    if (!bundle.cpu && kind.string() != "gpu") kind.wrong("is not cpu or gpu");
    bundle.level = choose_level(manifest, bundle);
    bundle.extensions = read_strings(target["extensions"]);

    const Json files = manifest["files"];
    if (!files.has("pose.json")) {
        throw BadInput(path +
                       " does not say what its maps mean (it has no pose.json): compile a "
                       "pose network, or say which skeleton it has (--skeleton)");
    }
    const Level& level = bundle.level;
    const Memory plan_text = read_listed(path, files, level.plan, kMaxText);
    const Memory pose_text = read_listed(path, files, "pose.json", kMaxText);
    bundle.weights = read_listed(path, files, level.weights, kMaxMemory);
    const Memory kernels = read_listed(path, files, level.code, kMaxText);
    if (!bundle.cpu) bundle.source = text_of(kernels);

    const JsonValue pose = parse_json(text_of(pose_text), path + "/pose.json");
    bundle.pose = read_pose(Json(pose, path + "/pose.json:"));
    const JsonValue plan = parse_json(text_of(plan_text), path + "/" + level.plan);
    const Json plan_json(plan, path + "/" + level.plan + ":");
    bundle.plan = PlanReader(plan_json, bundle).read();
    return bundle;
}

}  // namespace graphopt
