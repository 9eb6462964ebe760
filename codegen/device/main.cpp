// graphopt-run: a bundle on a picture, from the command line.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "error.h"
#include "files.h"
#include "graphopt.h"
#include "json.h"
#include "median.h"
#include "ppm.h"

namespace {

using graphopt::BadInput;
using Clock = std::chrono::steady_clock;

constexpr char kUsage[] =
    "usage: graphopt-run BUNDLE (--rgb FILE.ppm | --nv21 FILE WIDTHxHEIGHT)\n"
    "\n"
    "Find the people in a picture; with --rgb - in those whose names come on stdin, a line each.\n"
    "\n"
    "  --json        write them to stdout as graphopt run --json does\n"
    "  --details     with --json: warnings, the device and all that is measured, too\n"
    "  --cache DIR   keep compiled OpenCL programs here\n"
    "  --threads N   CPU threads of a cpu bundle (every core)\n"
    "  --repeat N    run N more times; write milliseconds of load, first and median frame, and\n"
    "                the memory in use halfway and at the end, to stderr\n"
    "  --profile     write the median milliseconds of every layer to stderr\n";

struct Options {
    std::string bundle, picture, cache;
    bool nv21 = false, json = false, details = false, profile = false;
    int width = 0, height = 0, threads = 0, repeat = 0;
};

int number(const std::string& text, int most) {
    char* end = nullptr;
    const long value = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || value < 0 || value > most) {
        throw BadInput(text + " is not a number from 0 to " + std::to_string(most));
    }
    return static_cast<int>(value);
}

Options parse(const std::vector<std::string>& arguments) {
    Options options;
    for (size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        const auto next = [&]() -> const std::string& {
            if (i + 1 == arguments.size()) throw BadInput(argument + " needs a value");
            return arguments[++i];
        };
        if (argument == "--rgb" || argument == "--nv21") {
            if (!options.picture.empty()) throw BadInput("there are two pictures");
            options.picture = next();
            options.nv21 = argument == "--nv21";
            if (options.nv21) {
                const std::string& size = next();
                const size_t by = std::min(size.find('x'), size.size());
                options.width = number(size.substr(0, by), GRAPHOPT_MAX_SIDE);
                options.height =
                    number(size.substr(std::min(by + 1, size.size())), GRAPHOPT_MAX_SIDE);
            }
        } else if (argument == "--cache") {
            options.cache = next();
        } else if (argument == "--threads") {
            options.threads = number(next(), 1024);
        } else if (argument == "--repeat") {
            options.repeat = number(next(), 1000000);
        } else if (argument == "--json") {
            options.json = true;
        } else if (argument == "--details") {
            options.details = true;
        } else if (argument == "--profile") {
            options.profile = true;
        } else if (argument.rfind("--", 0) == 0 || !options.bundle.empty()) {
            throw BadInput("what is " + argument + "? graphopt-run --help");
        } else {
            options.bundle = argument;
        }
    }
    if (options.bundle.empty()) throw BadInput("there is no bundle; graphopt-run --help");
    if (options.picture.empty()) throw BadInput("there is no picture; graphopt-run --help");
    return options;
}

struct Close {
    void operator()(graphopt_runner* runner) const { graphopt_close(runner); }
};
using Runner = std::unique_ptr<graphopt_runner, Close>;

void check(int status, const graphopt_error& error) {
    if (status != GRAPHOPT_OK) throw graphopt::Error(status, error.text);
}

double milliseconds_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Of this process, in RAM.
double megabytes_in_use() {
    long pages = 0;
    std::ifstream("/proc/self/statm").ignore(64, ' ') >> pages;
    return static_cast<double>(pages) * static_cast<double>(sysconf(_SC_PAGESIZE)) * 1e-6;
}

class Picture {
public:
    Picture(const Options& options, const std::string& name) : nv21_(options.nv21) {
        if (!nv21_) {
            rgb_ = graphopt::read_ppm(name);
            return;
        }
        const auto width = static_cast<size_t>(options.width);
        const auto height = static_cast<size_t>(options.height);
        chroma_stride_ = (width + 1) / 2 * 2;
        luma_ = width * height;
        const size_t bytes = luma_ + chroma_stride_ * ((height + 1) / 2);
        rgb_ = {options.width, options.height, graphopt::read_file(name, bytes), 0};
        if (rgb_.file.size() != bytes) {
            throw BadInput(name + " is not an NV21 picture of this size: " + std::to_string(bytes) +
                           " bytes");
        }
    }

    int width() const { return rgb_.width; }
    int height() const { return rgb_.height; }

    std::vector<graphopt_person> people(graphopt_runner* runner) const {
        std::vector<graphopt_person> people(static_cast<size_t>(graphopt_max_people(runner)));
        const auto width = static_cast<size_t>(rgb_.width);
        const auto room = static_cast<int>(people.size());
        int count = 0;
        graphopt_error error;
        check(nv21_ ? graphopt_run_nv21(runner, rgb_.pixels(), width, rgb_.pixels() + luma_,
                                        chroma_stride_, rgb_.width, rgb_.height, people.data(),
                                        room, &count, &error)
                    : graphopt_run_rgb(runner, rgb_.pixels(), rgb_.width, rgb_.height, 3 * width,
                                       people.data(), room, &count, &error),
              error);
        people.resize(static_cast<size_t>(count));
        return people;
    }

private:
    bool nv21_;
    graphopt::Picture rgb_{};
    size_t luma_ = 0, chroma_stride_ = 0;
};

// A number as JSON; those that are none are null there.
std::string json_number(double value, int digits) {
    if (!(value - value == 0)) return "null";
    char text[64];
    std::snprintf(text, sizeof text, "%.*f", digits, value);
    return text;
}

struct Measured {
    double load = 0, first = 0;   // milliseconds
    std::vector<double> frames;   // those after the first
    double halfway = 0, end = 0;  // megabytes in use
    std::vector<graphopt_layer> layers;
};

// The keys that --details adds; `warnings` are JSON strings.
std::string details(const graphopt_runner* runner, const std::string& warnings,
                    const Measured& measured) {
    std::string json = ",\n  \"warnings\": [" + warnings +
                       "],\n  \"device\": " + graphopt::json_string(graphopt_device(runner)) +
                       ",\n  \"load_ms\": " + json_number(measured.load, 3) +
                       ",\n  \"first_ms\": " + json_number(measured.first, 3);
    if (!measured.frames.empty()) {
        json += ",\n  \"median_ms\": " + json_number(graphopt::median(measured.frames), 3) +
                ",\n  \"mb_halfway\": " + json_number(measured.halfway, 3) +
                ",\n  \"mb_at_the_end\": " + json_number(measured.end, 3);
    }
    json += ",\n  \"layers\": [";
    const char* between = "\n";
    for (const graphopt_layer& layer : measured.layers) {
        json += std::string(between) + "   {\"stage\": " + graphopt::json_string(layer.stage) +
                ", \"layer\": " + graphopt::json_string(layer.layer) +
                ", \"kernel\": " + graphopt::json_string(layer.kernel) +
                ", \"macs\": " + std::to_string(layer.macs) +
                ", \"ms\": " + json_number(layer.ms, 6) + "}";
        between = ",\n";
    }
    return json + "]";
}

void write_json(const std::string& name, const Picture& picture, const graphopt_runner* runner,
                const std::vector<graphopt_person>& people, const std::string& more) {
    std::string json = "[\n {\n  \"image\": " + graphopt::json_string(name) +
                       ",\n  \"width\": " + std::to_string(picture.width()) +
                       ",\n  \"height\": " + std::to_string(picture.height()) +
                       ",\n  \"people\": [";
    const char* between = "\n";
    for (const graphopt_person& person : people) {
        json += std::string(between) + "   {\n    \"score\": " + json_number(person.score, 5) +
                ",\n    \"keypoints\": [";
        for (int i = 0; i < person.parts; ++i) {
            const graphopt_keypoint& point = person.keypoints[i];
            json += std::string(i == 0 ? "\n" : ",\n") + "     [" + json_number(point.x, 3) + ", " +
                    json_number(point.y, 3) + ", " + json_number(point.score, 5) + "]";
        }
        json += "\n    ]\n   }";
        between = ",\n";
    }
    json += std::string(people.empty() ? "]" : "\n  ]") +
            ",\n  \"skeleton\": " + graphopt::json_string(graphopt_skeleton(runner)) + more +
            "\n }\n]\n";
    std::fputs(json.c_str(), stdout);
}

std::vector<graphopt_layer> profile(graphopt_runner* runner, int runs) {
    graphopt_error error;
    int count = 0;
    check(graphopt_profile(runner, 1, nullptr, 0, &count, &error), error);
    std::vector<graphopt_layer> layers(static_cast<size_t>(count));
    check(graphopt_profile(runner, runs, layers.data(), count, &count, &error), error);
    return layers;
}

void write_profile(const std::vector<graphopt_layer>& layers) {
    double total = 0;
    for (const graphopt_layer& layer : layers) total += layer.ms;
    std::fprintf(stderr, "%8s  %5s  %8s  %-8s %-28s %s\n", "ms", "share", "GMAC/s", "stage",
                 "layer", "kernel");
    for (const graphopt_layer& layer : layers) {
        std::fprintf(stderr, "%8.3f  %4.1f%%  %8.2f  %-8s %-28s %s\n", layer.ms,
                     100 * layer.ms / total, static_cast<double>(layer.macs) / layer.ms * 1e-6,
                     layer.stage, layer.layer, layer.kernel);
    }
    std::fprintf(stderr, "%8.3f  in all\n", total);
}

void look(const Options& options, const std::string& name, graphopt_runner* runner, double load) {
    const Picture picture(options, name);
    Measured measured;
    measured.load = load;
    const Clock::time_point first = Clock::now();
    const std::vector<graphopt_person> people = picture.people(runner);
    measured.first = milliseconds_since(first);
    std::string warnings;
    for (int i = 0; const char* warning = graphopt_warning(runner, i); ++i) {
        std::fprintf(stderr, "%s: %s\n", name.c_str(), warning);
        warnings += (i == 0 ? "" : ", ") + graphopt::json_string(warning);
    }
    measured.frames.reserve(static_cast<size_t>(options.repeat));
    for (int i = 0; i < options.repeat; ++i) {
        if (i == options.repeat / 2) measured.halfway = megabytes_in_use();
        const Clock::time_point start = Clock::now();
        picture.people(runner);
        measured.frames.push_back(milliseconds_since(start));
    }
    measured.end = megabytes_in_use();
    if (options.profile) measured.layers = profile(runner, std::max(options.repeat, 10));

    if (options.json) {
        write_json(name, picture, runner, people,
                   options.details ? details(runner, warnings, measured) : "");
    } else {
        std::printf("%s: %zu %s, %.0f ms\n", name.c_str(), people.size(),
                    people.size() == 1 ? "person" : "people", measured.first);
    }
    if (std::fflush(stdout) != 0) throw BadInput("cannot write the result");
    if (!measured.frames.empty()) {
        std::fprintf(stderr,
                     "%s: load %.1f ms, first frame %.1f ms, then %.2f ms (median of %d); "
                     "%.2f MB in use halfway, %.2f MB at the end\n",
                     graphopt_device(runner), load, measured.first,
                     graphopt::median(measured.frames), options.repeat, measured.halfway,
                     measured.end);
    }
    if (options.profile) write_profile(measured.layers);
}

void work(const Options& options) {
    graphopt_runner* opened = nullptr;
    graphopt_error error;
    const Clock::time_point start = Clock::now();
    const int status = graphopt_open(options.bundle.c_str(),
                                     options.cache.empty() ? nullptr : options.cache.c_str(),
                                     options.threads, &opened, &error);
    const Runner runner(opened);
    check(status, error);
    const double load = milliseconds_since(start);
    if (options.nv21 || options.picture != "-") {
        look(options, options.picture, runner.get(), load);
        return;
    }
    for (std::string name; std::getline(std::cin, name);) look(options, name, runner.get(), load);
}

}  // namespace

int main(int count, char** values) {
    const std::vector<std::string> arguments(values + 1, values + std::max(count, 1));
    if (std::find(arguments.begin(), arguments.end(), "--help") != arguments.end()) {
        std::fputs(kUsage, stdout);
        return GRAPHOPT_OK;
    }
    try {
        work(parse(arguments));
        return GRAPHOPT_OK;
    } catch (const graphopt::Error& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return error.status();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return GRAPHOPT_UNSUPPORTED;
    }
}
