// Runs a program on a core: simulate MEMORY BASE BOOT END MARK (addresses in hexadecimal).
//
// MEMORY is a file that holds all memory from address BASE on, and afterwards what the program made of it. Every access
// is granted at once and answered in the next cycle: no wait states. The core starts at BOOT; the run ends when the
// instruction at END completes. Whenever the one at MARK does, a line tells the instructions and cycles before it.
// An exception leads to the first address of BOOT's 256 bytes, and ends the run with exit status 1.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "Vtop.h"

namespace {

constexpr uint64_t LONGEST = 4'000'000'000; // cycles from mark to mark: a program that takes longer hangs

[[noreturn]] void fail(const char *what, uint32_t where)
{
    std::fprintf(stderr, "%s %#" PRIx32 "\n", what, where);
    std::exit(1);
}

struct Memory {
    uint8_t *content;
    uint32_t base;
    uint32_t size;

    Memory(const char *path, uint32_t at) : base(at)
    {
        const int file = open(path, O_RDWR);
        struct stat about = {};
        fstat(file, &about);
        size = static_cast<uint32_t>(about.st_size);
        void *const mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped == MAP_FAILED) {
            std::perror(path);
            std::exit(1);
        }
        content = static_cast<uint8_t *>(mapped);
    }

    bool holds(uint32_t address) const { return address - base < size; }

    // The aligned word at `address`; zero, which is no instruction, where there is no memory.
    uint32_t load(uint32_t address) const
    {
        uint32_t word = 0;
        if (holds(address)) {
            std::memcpy(&word, content + ((address - base) & ~3u), sizeof word);
        }
        return word;
    }

    void store(uint32_t address, uint32_t word, unsigned bytes)
    {
        for (unsigned i = 0; i < 4; i++) {
            if (bytes >> i & 1u) {
                content[((address - base) & ~3u) + i] = static_cast<uint8_t>(word >> 8 * i);
            }
        }
    }
};

void run(Memory &memory, uint32_t boot, uint32_t end, uint32_t mark)
{
    Vtop core;
    uint64_t cycles = 0, instructions = 0, marked = 0;
    uint32_t last = boot;
    core.boot = boot;
    for (int edge = 0; edge < 8; edge++) { // in reset, which is low and has been since time began
        core.clk = edge % 2;
        core.eval();
    }
    core.rst_n = 1;
    for (;; cycles++) {
        core.clk = 0; // all settles on what memory answered
        core.eval();
        if (core.retired) {
            if (core.pc == end) {
                return;
            }
            if (core.pc == (boot & ~UINT32_C(0xff))) {
                fail("the program raised an exception; the last instruction that completed is at", last);
            }
            if (core.pc == mark) {
                std::printf("%" PRIu64 " %" PRIu64 "\n", instructions, cycles);
                std::fflush(stdout);
                marked = cycles;
            }
            last = core.pc;
            instructions++;
        }
        if (cycles - marked > LONGEST) {
            fail("no layer was done in four billion cycles; the program is at", core.pc);
        }
        const bool fetched = core.fetch, answered = core.access;
        const uint32_t instruction = memory.load(core.fetch_address), loaded = memory.load(core.address);
        if (answered && !memory.holds(core.address)) {
            fail("there is no memory at", core.address);
        }
        if (answered && core.write) {
            memory.store(core.address, core.stored, core.bytes);
        }
        core.clk = 1; // registers take what has settled
        core.eval();
        core.fetched = fetched;
        core.answered = answered;
        core.instruction = instruction;
        core.loaded = loaded;
    }
}

} // namespace

int main(int count, char **arguments)
{
    if (count != 6) {
        std::fputs("simulate MEMORY BASE BOOT END MARK\n", stderr);
        return 2;
    }
    uint32_t addresses[4];
    for (int i = 0; i < 4; i++) {
        addresses[i] = static_cast<uint32_t>(std::strtoul(arguments[2 + i], nullptr, 16));
    }
    const auto [base, boot, end, mark] = addresses;
    Memory memory(arguments[1], base);
    run(memory, boot, end, mark);
    return 0;
}
