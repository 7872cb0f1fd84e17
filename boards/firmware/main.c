/* Start-up for simulators with semihosting: reads arena.bin into the arena, runs, writes it back with the stack's depth. */
#include <stddef.h>
#include <stdint.h>

extern int8_t bench_arena[];
extern volatile uint32_t bench_stack_bytes;
void bench_run(void);
void start(void);
int main(void);

#define SYS_OPEN 1
#define SYS_CLOSE 2
#define SYS_WRITE 5
#define SYS_READ 6
#define SYS_EXIT 0x18
#define STOPPED_NORMALLY 0x20026u

#if defined(__riscv)
#if __riscv_xlen == 64
typedef uint64_t word;
#else
typedef uint32_t word;
#endif
static word semihost(word operation, const void *arguments)
{
    register word a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = arguments;
    __asm__ volatile(
        ".balign 16\n .option push\n .option norvc\n slli x0, x0, 0x1f\n ebreak\n srai x0, x0, 7\n .option pop"
        : "+r"(a0)
        : "r"(a1)
        : "memory");
    return a0;
}

__asm__(".section .start, \"ax\"\n .globl start\nstart:\n la sp, bench_stack_top\n"
#if defined(__riscv_vector)
        " li t0, 0x600\n csrs mstatus, t0\n"
#endif
        " call main\n1: j 1b\n");
#elif defined(__aarch64__)
typedef uint64_t word;
static word semihost(word operation, const void *arguments)
{
    register word x0 __asm__("x0") = operation;
    register const void *x1 __asm__("x1") = arguments;
    __asm__ volatile("hlt 0xf000" : "+r"(x0) : "r"(x1) : "memory");
    return x0;
}

/* The access register lets the vector unit run. */
__asm__(".section .start, \"ax\"\n .globl start\nstart:\n mov x0, #0x300000\n msr cpacr_el1, x0\n isb\n"
        " adrp x0, bench_stack_top\n add x0, x0, :lo12:bench_stack_top\n mov sp, x0\n bl main\n1: b 1b\n");
#else
typedef uint32_t word;
static word semihost(word operation, const void *arguments)
{
    register word r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

extern uint32_t bench_stack_top[];

void start(void)
{
    /* The coprocessor access register lets the FPU and the vector unit run. */
    *(volatile uint32_t *)0xE000ED88u |= 0xF00000u;
    __asm__ volatile("dsb\n isb" : : : "memory");
    main();
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    bench_stack_top, (const void *)start, (const void *)start, (const void *)start};
#endif

static word open_file(const char *name, word length, word mode)
{
    const word block[3] = {(word)(uintptr_t)name, mode, length};
    return semihost(SYS_OPEN, block);
}

static void transfer(word operation, word file, const volatile void *begin, word size)
{
    const word block[3] = {file, (word)(uintptr_t)begin, size};
    semihost(operation, block);
}

int main(void)
{
    word file = open_file("arena.bin", 9, 1);
    transfer(SYS_READ, file, bench_arena, BENCH_ARENA_BYTES);
    semihost(SYS_CLOSE, &file);
    bench_run();
    file = open_file("result.bin", 10, 5);
    transfer(SYS_WRITE, file, &bench_stack_bytes, sizeof bench_stack_bytes);
    transfer(SYS_WRITE, file, bench_arena, BENCH_ARENA_BYTES);
    semihost(SYS_CLOSE, &file);
#if UINTPTR_MAX > UINT32_MAX
    const word reason[2] = {STOPPED_NORMALLY, 0};
    semihost(SYS_EXIT, reason);
#else
    semihost(SYS_EXIT, (const void *)(uintptr_t)STOPPED_NORMALLY);
#endif
    return 0;
}
