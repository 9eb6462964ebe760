#include "ppm.h"

#include "files.h"
#include "graphopt.h"

namespace graphopt {
namespace {

constexpr size_t kMaxFile = size_t{1} << 31;

class Header {
public:
    Header(const Memory& file, const std::string& path) : file_(file), path_(path) {}

    Picture picture() {
        if (next() != 'P' || next() != '6') wrong("it is no binary PPM (P6)");
        const int width = number(GRAPHOPT_MAX_SIDE), height = number(GRAPHOPT_MAX_SIDE);
        if (number(65535) != 255) wrong("it has not 8 bits a colour");
        if (!space(next())) wrong("its header has no end");
        const size_t wanted = 3 * static_cast<size_t>(width) * static_cast<size_t>(height);
        if (file_.size() - at_ < wanted) wrong("it ends too early");
        return {width, height, Memory(), at_};
    }

private:
    [[noreturn]] void wrong(const char* what) const {
        throw BadInput("cannot read " + path_ + ": " + what);
    }

    static bool space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

    int next() { return at_ < file_.size() ? file_.data()[at_++] : -1; }

    // A number from 1 to `most`, after spaces and comments.
    int number(int most) {
        int c = next();
        for (; space(c) || c == '#'; c = next()) {
            while (c == '#' && at_ < file_.size() && file_.data()[at_] != '\n') ++at_;
        }
        int value = 0;
        for (; c >= '0' && c <= '9'; c = next()) {
            value = 10 * value + (c - '0');
            if (value > most) wrong("its header has too large a number");
        }
        if (value == 0) wrong("its header lacks a number");
        if (c >= 0) --at_;
        return value;
    }

    const Memory& file_;
    const std::string& path_;
    size_t at_ = 0;
};

}  // namespace

Picture read_ppm(const std::string& path) {
    Memory file = read_file(path, kMaxFile);
    Picture picture = Header(file, path).picture();
    picture.file = std::move(file);
    return picture;
}

}  // namespace graphopt
