// SHA-256 (FIPS 180-4).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace graphopt {

// The hash in hexadecimal digits, small letters.
std::string sha256(const void* data, size_t size);

inline std::string sha256(const std::string& text) { return sha256(text.data(), text.size()); }

}  // namespace graphopt
