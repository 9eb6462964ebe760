#include "runner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "median.h"

namespace graphopt {
namespace {

// Places among the decoder's thresholds.
constexpr size_t kMinParts = 3, kMinScore = 4;

}  // namespace

Runner::Runner(const std::string& bundle, const std::string& cache, int threads)
    : bundle_(read_bundle(bundle)),
      backend_(bundle_.cpu ? make_cpu_backend(bundle_, threads)
                           : make_opencl_backend(bundle_, cache)),
      device_(backend_->device()) {
    const Decoder& decoder = bundle_.plan.decoder;
    write<float>(decoder.thresholds, {decoder.defaults.begin(), decoder.defaults.end()});
}

const std::vector<graphopt_person>& Runner::run(const Frame& frame) {
    people_.clear();
    warnings_.clear();
    const Plan& plan = bundle_.plan;
    const Fit fit = fitted({frame.width, frame.height}, {plan.width, plan.height});
    prepare(frame, fit);
    run(Stage::network);
    run(Stage::decode);
    const std::vector<int32_t> counts = read<int32_t>(plan.decoder.counts);
    bundle_.pose.single ? collect_person(fit, counts) : collect_people(fit, counts);
    return people_;
}

void Runner::prepare(const Frame& frame, const Fit& fit) {
    const Plan& plan = bundle_.plan;
    const int pixel = plan.preparation.pixel;
    const size_t row = static_cast<size_t>(pixel) * static_cast<size_t>(frame.width);
    const size_t bytes = row * static_cast<size_t>(frame.height);
    prepared_ = plan.has_preparation &&
                std::max(frame.width, frame.height) <= plan.preparation.side && write_tables(fit);
    if (prepared_) {
        backend_->write(plan.preparation.photo, bytes, [&](void* memory) {
            auto* to = static_cast<uint8_t*>(memory);
            for (int y = 0; y < frame.height; ++y, to += row) frame.row(y, to, pixel);
        });
        run(Stage::prepare);
        return;
    }
    std::vector<float> input(3 * static_cast<size_t>(plan.width) *
                             static_cast<size_t>(plan.height));
    prepare_on_host(frame, fit, bundle_.pose, input.data());
    write(plan.input, input);
    run(Stage::input);
}

bool Runner::write_tables(const Fit& fit) {
    if (fit.photo == tables_for_) return true;
    const Preparation& preparation = bundle_.plan.preparation;
    const Table columns = make_table(fit.photo.width, fit.size.width);
    const Table rows = make_table(fit.photo.height, fit.size.height);
    if (std::max(columns.most, rows.most) > preparation.neighbours) return false;
    tables_for_ = {0, 0};
    write(preparation.geometry, fit.geometry());
    write(preparation.columns, columns.as_rows(preparation.neighbours, fit.canvas.width));
    write(preparation.rows, rows.as_rows(preparation.neighbours, fit.canvas.height));
    tables_for_ = fit.photo;
    return true;
}

template <class Value>
void Runner::write(int tensor, const std::vector<Value>& values) {
    const size_t bytes = values.size() * sizeof(Value);
    backend_->write(tensor, bytes, [&](void* to) { std::memcpy(to, values.data(), bytes); });
}

template <class Value>
std::vector<Value> Runner::read(int tensor) {
    std::vector<Value> values(bundle_.plan.tensors[static_cast<size_t>(tensor)].bytes /
                              sizeof(Value));
    backend_->read(tensor, values.data());
    return values;
}

void Runner::run(Stage stage) {
    for (size_t i = 0; i < bundle_.plan.launches.size(); ++i) {
        if (bundle_.plan.launches[i].stage == stage) backend_->launch(i);
    }
}

void Runner::collect_people(const Fit& fit, const std::vector<int32_t>& counts) {
    const Decoder& decoder = bundle_.plan.decoder;
    const std::vector<int32_t> found = read<int32_t>(decoder.found);
    const std::vector<float> worth = read<float>(decoder.worth);
    const std::vector<float> keypoints = read<float>(decoder.people);
    const int kept = std::clamp(found[0], 0, decoder.max_people);
    for (int i = 0; i < kept; ++i) {
        const auto person = static_cast<size_t>(i);
        add(fit, &keypoints[person * 3 * bundle_.pose.parts.size()], worth[person]);
    }
    warn(counts, found[1]);
}

// graphopt/pose/decode.py, the_only_person.
void Runner::collect_person(const Fit& fit, const std::vector<int32_t>& counts) {
    std::vector<float> keypoints = read<float>(bundle_.plan.decoder.peaks);
    const size_t parts = bundle_.pose.parts.size();
    int found = 0;
    float total = 0;
    for (size_t part = 0; part < parts; ++part) {
        if (counts[3 * part] > 0) {
            ++found;
        } else {
            std::fill_n(&keypoints[3 * part], 3, 0.0f);
        }
        total += keypoints[3 * part + 2];
    }
    const float score = total / static_cast<float>(parts);
    const std::array<float, 5>& least = bundle_.plan.decoder.defaults;
    const bool enough = static_cast<float>(found) >= least[kMinParts] && score >= least[kMinScore];
    if (enough) add(fit, keypoints.data(), score);
    warn(counts, enough ? 1 : 0);
}

// Key points in pixels of the maps, as a person in pixels of the frame: graphopt/pose/decode.py,
// on_photo, with its precision (float32 in the maps, float64 from there on).
void Runner::add(const Fit& fit, const float* keypoints, float score) {
    graphopt_person person{};
    person.score = score;
    person.parts = static_cast<int>(bundle_.pose.parts.size());
    const auto stride = static_cast<float>(bundle_.pose.stride);
    const auto placed = [&](float on_map, int offset, int scaled, int extent) {
        const float in_input = (on_map + 0.5f) * stride - 0.5f;
        const double scale = static_cast<double>(scaled) / extent;
        return static_cast<float>((static_cast<double>(in_input) - offset + 0.5) / scale - 0.5);
    };
    for (int i = 0; i < person.parts; ++i, keypoints += 3) {
        if (!(keypoints[2] > 0)) {
            person.keypoints[i] = {keypoints[0], keypoints[1], keypoints[2]};
            continue;
        }
        person.keypoints[i] = {placed(keypoints[0], fit.left, fit.size.width, fit.photo.width),
                               placed(keypoints[1], fit.top, fit.size.height, fit.photo.height),
                               keypoints[2]};
    }
    people_.push_back(person);
}

// `counts`: of each part how many candidates were kept, how many there were, and whether its map
// holds values that are not finite.
void Runner::warn(const std::vector<int32_t>& counts, int people) {
    const Decoder& decoder = bundle_.plan.decoder;
    bool finite = true;
    for (size_t i = 2; i < counts.size(); i += 3) finite = finite && counts[i] == 0;
    if (!finite) {
        warnings_.push_back("the heat maps hold values that are not finite; they count as 0");
    }
    for (size_t part = 0; part < bundle_.pose.parts.size(); ++part) {
        if (counts[3 * part + 1] > counts[3 * part]) {
            warnings_.push_back("more than " + std::to_string(decoder.max_peaks) +
                                " candidates for " + bundle_.pose.parts[part] +
                                "; the weakest were left out");
        }
    }
    if (people > decoder.max_people) {
        warnings_.push_back("more than " + std::to_string(decoder.max_people) +
                            " people; the weakest were left out");
    }
}

std::vector<graphopt_layer> Runner::profile(int runs) {
    using Clock = std::chrono::steady_clock;
    const std::vector<Launch>& launches = bundle_.plan.launches;
    std::vector<graphopt_layer> layers;
    for (const Stage stage : {Stage::prepare, Stage::input, Stage::network, Stage::decode}) {
        // Of what was not run, tensors may hold anything.
        if (stage == (prepared_ ? Stage::input : Stage::prepare)) continue;
        std::vector<std::vector<double>> times;  // of each layer of the stage, a number a run
        const size_t first = layers.size();
        for (int run = 0; run < runs; ++run) {
            size_t layer = 0;
            for (size_t i = 0; i < launches.size(); ++i) {
                const Launch& launch = launches[i];
                if (launch.stage != stage) continue;
                // Launches without a layer belong to the one before.
                const bool opens = layer == 0 || !launch.layer.empty();
                if (opens && run == 0) {
                    const char* name =
                        launch.layer.empty() ? launch.kernel.c_str() : launch.layer.c_str();
                    layers.push_back({kStageNames[static_cast<size_t>(stage)], name,
                                      launch.kernel.c_str(), launch.macs, 0});
                    times.emplace_back();
                }
                if (opens) {
                    ++layer;
                    times[layer - 1].push_back(0);
                }
                backend_->wait();
                const auto start = Clock::now();
                backend_->launch(i);
                backend_->wait();
                const std::chrono::duration<double, std::milli> taken = Clock::now() - start;
                times[layer - 1].back() += taken.count();
            }
        }
        for (size_t i = 0; i < times.size(); ++i) layers[first + i].ms = median(times[i]);
    }
    return layers;
}

}  // namespace graphopt
