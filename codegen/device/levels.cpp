#include "levels.h"

#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

#include "error.h"

namespace graphopt {
namespace {

constexpr char kLimit[] = "GRAPHOPT_CPU_LEVEL";

#if defined(__aarch64__)
// The bits of AT_HWCAP, as /proc/cpuinfo calls them (Linux, arch/arm64/kernel/cpuinfo.c). Emulators
// show the file of the machine that they run on.
constexpr const char* kFeatures[] = {
    "fp",      "asimd", "evtstrm", "aes",   "pmull",    "sha1",   "sha2", "crc32",
    "atomics", "fphp",  "asimdhp", "cpuid", "asimdrdm", "jscvt",  "fcma", "lrcpc",
    "dcpop",   "sha3",  "sm3",     "sm4",   "asimddp",  "sha512", "sve",  "asimdfhm",
    "dit",     "uscat", "ilrcpc",  "flagm", "ssbs",     "sb",     "paca", "pacg",
};
// Those of AT_HWCAP2 that kernels use.
constexpr std::pair<unsigned long, const char*> kLaterFeatures[] = {{1ul << 13, "i8mm"},
                                                                    {1ul << 14, "bf16"}};
#endif

std::string joined(const std::vector<std::string>& words, const char* between) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
    return text;
}

bool runs(const Level& level, const std::set<std::string>& have) {
    const std::vector<std::string>& needed = level.features;
    const bool able = std::all_of(needed.begin(), needed.end(), [&](const std::string& feature) {
        return have.count(feature) != 0;
    });
    const bool tiles = std::count(needed.begin(), needed.end(), "amx_tile") != 0;
    return able && (!tiles || permit_tiles());
}

}  // namespace

#if defined(__aarch64__)
std::set<std::string> cpu_features() {
    std::set<std::string> features;
    const unsigned long have = getauxval(AT_HWCAP);
    for (size_t bit = 0; bit < std::size(kFeatures); ++bit) {
        if ((have >> bit & 1) != 0) features.insert(kFeatures[bit]);
    }
    for (const auto& [bit, name] : kLaterFeatures) {
        if ((getauxval(AT_HWCAP2) & bit) != 0) features.insert(name);
    }
    return features;
}
#else
std::set<std::string> cpu_features() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("flags", 0) != 0) continue;
        std::istringstream words(line.substr(line.find(':') + 1));
        return {std::istream_iterator<std::string>(words), {}};
    }
    return {};
}
#endif

bool permit_tiles() {
#if defined(__x86_64__)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return true;
#endif
}

const Level& best_level(const std::vector<Level>& levels, const std::string& what) {
    const char* value = std::getenv(kLimit);
    const std::string limit = value != nullptr ? value : "";
    auto first = levels.begin();
    if (!limit.empty()) {
        first = std::find_if(levels.begin(), levels.end(),
                             [&](const Level& level) { return level.name == limit; });
    }
    if (first == levels.end()) {
        std::vector<std::string> names;
        for (const Level& level : levels) names.push_back(level.name);
        throw BadInput(what + " has no level " + limit + " (" + kLimit + "), but " +
                       joined(names, ", "));
    }
    const std::set<std::string> have = cpu_features();
    std::vector<std::string> needed;
    std::set<std::string> found;
    for (auto level = first; level != levels.end(); ++level) {
        if (runs(*level, have)) return *level;
        needed.push_back(joined(level->features, ", "));
        for (const std::string& feature : level->features) {
            if (have.count(feature) != 0) found.insert(feature);
        }
    }
    throw Unsupported(what + " has kernels for CPUs with " + joined(needed, "; or with ") +
                      "; this one has " +
                      (found.empty() ? "none of that" : joined({found.begin(), found.end()}, ", ")) +
                      "; compile it for this one");
}

}  // namespace graphopt
