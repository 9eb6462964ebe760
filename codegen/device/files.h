// Files read and written whole.
#pragma once

#include <string>

#include "memory.h"

namespace graphopt {

// The content of a regular file. BadInput: it cannot be read, or has more than `most` bytes.
Memory read_file(const std::string& path, size_t most);

// The same as text.
std::string read_text(const std::string& path, size_t most);

// Write a file, whole or not at all; whether that worked.
bool write_file(const std::string& path, const std::string& content);

}  // namespace graphopt
