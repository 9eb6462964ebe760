#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace graphopt {
namespace {

class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) close(number_);
    }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;

    int number() const { return number_; }

private:
    int number_;
};

[[noreturn]] void cannot_read(const std::string& path, const std::string& why) {
    throw BadInput("cannot read " + path + ": " + why);
}

}  // namespace

Memory read_file(const std::string& path, size_t most) {
    // A pipe in place of a file would let an open wait for ever.
    const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat status;
    if (file.number() < 0 || fstat(file.number(), &status) != 0) {
        cannot_read(path, std::strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) cannot_read(path, "it is not a file");
    if (status.st_size < 0 || static_cast<uint64_t>(status.st_size) > most) {
        cannot_read(path, "it is longer than " + std::to_string(most) + " bytes");
    }
    Memory content(static_cast<size_t>(status.st_size));
    for (size_t done = 0; done < content.size();) {
        const ssize_t got = read(file.number(), content.data() + done, content.size() - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) cannot_read(path, std::strerror(errno));
        if (got == 0) cannot_read(path, "it became shorter meanwhile");
        done += static_cast<size_t>(got);
    }
    return content;
}

std::string read_text(const std::string& path, size_t most) {
    const Memory content = read_file(path, most);
    return std::string(reinterpret_cast<const char*>(content.data()), content.size());
}

bool write_file(const std::string& path, const std::string& content) {
    std::string fresh = path + ".XXXXXX";
    const int number = mkstemp(fresh.data());
    if (number < 0) return false;
    bool written = true;
    {
        const Descriptor file(number);
        for (size_t done = 0; written && done < content.size();) {
            const ssize_t put = write(number, content.data() + done, content.size() - done);
            if (put < 0 && errno == EINTR) continue;
            written = put > 0;
            if (written) done += static_cast<size_t>(put);
        }
        written = written && fsync(number) == 0;
    }
    written = written && std::rename(fresh.c_str(), path.c_str()) == 0;
    if (!written) unlink(fresh.c_str());
    return written;
}

}  // namespace graphopt
