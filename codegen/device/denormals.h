// Numbers below 1e-38, which many CPUs work on a hundred times as slowly, taken as zero.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace graphopt {

// While it is there, the thread that made it takes them so.
class DenormalsAreZero {
public:
    DenormalsAreZero() : before_(mode()) { set(before_ | kBits); }
    ~DenormalsAreZero() { set(before_); }
    DenormalsAreZero(const DenormalsAreZero&) = delete;
    DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

private:
#if defined(__x86_64__)
    using Mode = uint32_t;
    static constexpr Mode kBits = 0x8040;  // MXCSR: flush to zero, denormals are zero
    static Mode mode() { return _mm_getcsr(); }
    static void set(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
    using Mode = uint64_t;
    static constexpr Mode kBits = 1u << 24;  // FPCR: flush to zero
    static Mode mode() {
        Mode mode;
        asm volatile("mrs %0, fpcr" : "=r"(mode));
        return mode;
    }
    static void set(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
    using Mode = uint32_t;
    static constexpr Mode kBits = 0;
    static Mode mode() { return 0; }
    static void set(Mode) {}
#endif

    Mode before_;
};

}  // namespace graphopt
