// What goes wrong, as a sentence for the user.
#pragma once

#include <stdexcept>
#include <string>

#include "graphopt.h"

namespace graphopt {

class Error : public std::runtime_error {
public:
    Error(int status, const std::string& message) : std::runtime_error(message), status_(status) {}

    int status() const { return status_; }

private:
    int status_;
};

// A file, a bundle or an argument that is wrong.
struct BadInput : Error {
    explicit BadInput(const std::string& message) : Error(GRAPHOPT_BAD_INPUT, message) {}
};

// A device that cannot do what is asked.
struct Unsupported : Error {
    explicit Unsupported(const std::string& message) : Error(GRAPHOPT_UNSUPPORTED, message) {}
};

}  // namespace graphopt
