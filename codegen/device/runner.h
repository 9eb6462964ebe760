// A frame in, people out: graphopt/pose/bundle_estimator.py, with the same numbers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "bundle.h"
#include "frame.h"
#include "graphopt.h"
#include "resample.h"

namespace graphopt {

class Runner {
public:
    // cache: see graphopt_open; empty for none.
    Runner(const std::string& bundle, const std::string& cache, int threads);

    // The people in a frame, best first.
    const std::vector<graphopt_person>& run(const Frame& frame);

    // What a user should know of the last run.
    const std::vector<std::string>& warnings() const { return warnings_; }

    // Time every layer, on what the tensors hold.
    std::vector<graphopt_layer> profile(int runs);

    const PoseSpec& pose() const { return bundle_.pose; }
    const std::string& device() const { return device_; }
    int max_people() const { return bundle_.pose.single ? 1 : bundle_.plan.decoder.max_people; }

private:
    // Scale, pad and normalise a frame into the network's input.
    void prepare(const Frame& frame, const Fit& fit);
    // Set the tensors that differ from size to size; whether they have room.
    bool write_tables(const Fit& fit);
    template <class Value>
    void write(int tensor, const std::vector<Value>& values);
    template <class Value>
    std::vector<Value> read(int tensor);
    void run(Stage stage);
    // The people in the decoder's outputs.
    void collect_people(const Fit& fit, const std::vector<int32_t>& counts);
    void collect_person(const Fit& fit, const std::vector<int32_t>& counts);
    void add(const Fit& fit, const float* keypoints, float score);
    void warn(const std::vector<int32_t>& counts, int people);

    Bundle bundle_;
    std::unique_ptr<Backend> backend_;  // it refers to the bundle's plan
    std::string device_;
    bool prepared_ = false;     // the last frame was prepared by kernels
    Size tables_for_ = {0, 0};  // the size of frames that the tables are set for
    std::vector<graphopt_person> people_;
    std::vector<std::string> warnings_;
};

}  // namespace graphopt
