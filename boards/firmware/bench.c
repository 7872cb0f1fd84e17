/* Runs a generated model once: paints the stack, marks each layer, measures how deep the stack went.
 *
 * BENCH_MODEL is the model's source file, BENCH_RUN its function and BENCH_ARENA its arena type. Everything that a
 * simulator reads or writes is a symbol: bench_arena, bench_stack_bytes, bench_mark.
 */
#include <stddef.h>
#include <stdint.h>

void bench_mark(int32_t number);
#define EDGEQ_LAYER_DONE(number, codes, count) bench_mark(number)

#include BENCH_MODEL

#define PAINT UINT32_C(0x5AA55AA5)
#define MARGIN 256u /* below our own frame: not painted, since it may be in use */

extern uint32_t bench_stack_low[];
BENCH_ARENA bench_arena;
volatile uint32_t bench_stack_bytes;

/* A simulator counts instructions up to here. */
__attribute__((noinline)) void bench_mark(int32_t number)
{
    __asm__ volatile("" : : "r"(number) : "memory");
}

__attribute__((noinline)) static void run_model(void)
{
    bench_mark(0);
    BENCH_RUN(&bench_arena);
    bench_mark(-1);
}

__attribute__((noinline)) void bench_run(void)
{
    uint32_t *const top = (uint32_t *)(((uintptr_t)__builtin_frame_address(0) - MARGIN) & ~(uintptr_t)3);
    uint32_t *word = bench_stack_low;
    for (; word < top; word++) {
        *(volatile uint32_t *)word = PAINT;
    }
    run_model();
    for (word = bench_stack_low; word < top && *(volatile uint32_t *)word == PAINT; word++) {
    }
    bench_stack_bytes = (uint32_t)((uintptr_t)__builtin_frame_address(0) - (uintptr_t)word);
}
