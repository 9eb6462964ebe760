// The C interface: arguments checked, exceptions turned into error texts.

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>

#include "error.h"
#include "graphopt.h"
#include "runner.h"

struct graphopt_runner {
    graphopt::Runner runner;
    // Held from a frame's pixels to its people.
    mutable std::mutex mutex{};
    // Of the last run of each thread, if there were any.
    std::map<std::thread::id, std::vector<std::string>> warnings{};
};

namespace {

using graphopt::BadInput;
using graphopt::Frame;

void say(graphopt_error* error, const char* text) {
    if (error == nullptr) return;
    const size_t most = sizeof error->text - 1;
    size_t length = std::min(std::strlen(text), most);
    // Not in the middle of a character.
    if (length == most) {
        while (length > 0 && (text[length] & 0xc0) == 0x80) --length;
    }
    std::memcpy(error->text, text, length);
    error->text[length] = '\0';
}

// Run `work`; what it throws becomes a status and a text.
template <class Work>
int guarded(graphopt_error* error, const Work& work) {
    say(error, "");
    try {
        work();
        return GRAPHOPT_OK;
    } catch (const graphopt::Error& wrong) {
        say(error, wrong.what());
        return wrong.status();
    } catch (const std::bad_alloc&) {
        say(error, "there is not enough memory");
    } catch (const std::exception& wrong) {
        say(error, wrong.what());
    } catch (...) {
        say(error, "something unforeseen went wrong");
    }
    return GRAPHOPT_UNSUPPORTED;
}

void require(bool holds, const char* otherwise) {
    if (!holds) throw BadInput(otherwise);
}

int find_people(graphopt_runner* handle, const Frame& frame, size_t row, graphopt_person* people,
                int capacity, int* count, graphopt_error* error) {
    if (count != nullptr) *count = 0;
    return guarded(error, [&] {
        require(handle != nullptr && frame.pixels != nullptr && count != nullptr,
                "a pointer is null");
        require(capacity >= 0 && (capacity == 0 || people != nullptr),
                "there is no room for people");
        require(frame.width > 0 && frame.height > 0 && frame.width <= GRAPHOPT_MAX_SIDE &&
                    frame.height <= GRAPHOPT_MAX_SIDE,
                "a frame's sides must be 1 to 32768 pixels");
        require(frame.stride >= row, "a row of the frame is longer than the stride");
        const std::lock_guard<std::mutex> lock(handle->mutex);
        handle->warnings.erase(std::this_thread::get_id());
        const std::vector<graphopt_person>& found = handle->runner.run(frame);
        if (!handle->runner.warnings().empty()) {
            handle->warnings[std::this_thread::get_id()] = handle->runner.warnings();
        }
        const size_t given = std::min(found.size(), static_cast<size_t>(capacity));
        std::copy_n(found.begin(), given, people);
        *count = static_cast<int>(found.size());
    });
}

// The text at a place of a list, or null.
const char* at(const std::vector<std::string>& texts, int number) {
    const bool there = number >= 0 && static_cast<size_t>(number) < texts.size();
    return there ? texts[static_cast<size_t>(number)].c_str() : nullptr;
}

}  // namespace

int graphopt_open(const char* bundle, const char* cache, int threads, graphopt_runner** runner,
                  graphopt_error* error) {
    if (runner != nullptr) *runner = nullptr;
    return guarded(error, [&] {
        require(bundle != nullptr && runner != nullptr, "a pointer is null");
        require(threads >= 0 && threads <= 1024, "the number of threads must be 0 to 1024");
        *runner =
            new graphopt_runner{graphopt::Runner(bundle, cache != nullptr ? cache : "", threads)};
    });
}

void graphopt_close(graphopt_runner* runner) { delete runner; }

const char* graphopt_device(const graphopt_runner* runner) {
    return runner->runner.device().c_str();
}

const char* graphopt_skeleton(const graphopt_runner* runner) {
    return runner->runner.pose().skeleton.c_str();
}

int graphopt_part_count(const graphopt_runner* runner) {
    return static_cast<int>(runner->runner.pose().parts.size());
}

const char* graphopt_part_name(const graphopt_runner* runner, int part) {
    return at(runner->runner.pose().parts, part);
}

int graphopt_max_people(const graphopt_runner* runner) { return runner->runner.max_people(); }

int graphopt_run_rgb(graphopt_runner* runner, const uint8_t* pixels, int width, int height,
                     size_t stride, graphopt_person* people, int capacity, int* count,
                     graphopt_error* error) {
    const Frame frame = {Frame::Format::rgb, width, height, pixels, stride, nullptr, 0};
    return find_people(runner, frame, 3 * static_cast<size_t>(std::max(width, 0)), people, capacity,
                       count, error);
}

int graphopt_run_nv21(graphopt_runner* runner, const uint8_t* luma, size_t luma_stride,
                      const uint8_t* chroma, size_t chroma_stride, int width, int height,
                      graphopt_person* people, int capacity, int* count, graphopt_error* error) {
    const auto row = static_cast<size_t>(std::max(width, 0));
    if (chroma == nullptr || chroma_stride < (row + 1) / 2 * 2) {
        if (count != nullptr) *count = 0;
        say(error, "there is no chroma, or a row of it is longer than its stride");
        return GRAPHOPT_BAD_INPUT;
    }
    const Frame frame = {Frame::Format::nv21, width,  height,       luma,
                         luma_stride,         chroma, chroma_stride};
    return find_people(runner, frame, row, people, capacity, count, error);
}

const char* graphopt_warning(const graphopt_runner* runner, int number) {
    const std::lock_guard<std::mutex> lock(runner->mutex);
    const auto own = runner->warnings.find(std::this_thread::get_id());
    return own == runner->warnings.end() ? nullptr : at(own->second, number);
}

int graphopt_profile(graphopt_runner* runner, int runs, graphopt_layer* layers, int capacity,
                     int* count, graphopt_error* error) {
    if (count != nullptr) *count = 0;
    return guarded(error, [&] {
        require(runner != nullptr && count != nullptr, "a pointer is null");
        require(runs > 0, "the number of runs must be at least 1");
        require(capacity >= 0 && (capacity == 0 || layers != nullptr),
                "there is no room for layers");
        const std::lock_guard<std::mutex> lock(runner->mutex);
        const std::vector<graphopt_layer> found = runner->runner.profile(runs);
        std::copy_n(found.begin(), std::min(found.size(), static_cast<size_t>(capacity)), layers);
        *count = static_cast<int>(found.size());
    });
}
