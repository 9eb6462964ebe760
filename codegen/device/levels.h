// Kernels for several kinds of CPUs in one bundle, and which of them this CPU runs
// (graphopt/runtime/levels.py).
#pragma once

#include <set>
#include <string>
#include <vector>

namespace graphopt {

// Files of a bundle that go together.
struct Level {
    std::string name;                   // empty where a bundle has but one
    std::vector<std::string> features;  // without which its kernels cannot run
    std::string plan;
    std::vector<std::string> weights;  // one behind the other
    std::string code;
};

// This CPU's features, as /proc/cpuinfo names them.
std::set<std::string> cpu_features();

// Asks Linux for the tile registers of AMX, for this process and the threads that it starts from then
// on (Documentation/arch/x86/xstate.rst); whether it gives them. Only x86 has such a feature.
bool permit_tiles();

// The first that this CPU can run, from the one on that GRAPHOPT_CPU_LEVEL names. BadInput: there is
// no level of that name. Unsupported: it can run none. `what` is how messages call the bundle.
const Level& best_level(const std::vector<Level>& levels, const std::string& what);

}  // namespace graphopt
