/* Runs a generated model under an operating system and times it: SAMPLES WARM_UP RUNS in:OFFSET:BYTES ... out:OFFSET:BYTES ...
 *
 * inputs.bin holds the ports of every sample one after another, as the arena stores them; outputs.bin will hold the
 * outputs likewise. Prints nanoseconds, a line for a run: of the first, of WARM_UP others, and of RUNS more, all of the
 * first sample. BENCH_MODEL is the model's source file, BENCH_RUN its function and BENCH_ARENA its arena type. With
 * BENCH_LAYERS, how many there are, a line goes on with the nanoseconds of every layer; the clock's own then count too.
 */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

#ifdef BENCH_LAYERS
static long long ended[BENCH_LAYERS + 1];
#define EDGEQ_LAYER_DONE(number, codes, count) (ended[number] = now())
#endif

#include BENCH_MODEL

static BENCH_ARENA arena;

struct port {
    size_t offset, bytes;
};

static struct port ports[2][64];
static int counts[2];

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void add_port(const char *text)
{
    char *end;
    const int out = text[0] == 'o';
    const char *colon = strchr(text, ':');
    if (colon == NULL || counts[out] == 64) {
        fail("a port is in:OFFSET:BYTES or out:OFFSET:BYTES");
    }
    struct port *port = &ports[out][counts[out]++];
    port->offset = strtoul(colon + 1, &end, 10);
    port->bytes = strtoul(end + 1, NULL, 10);
    if (port->offset + port->bytes > sizeof arena) {
        fail("a port lies outside the arena");
    }
}

static size_t bytes_of(int out)
{
    size_t bytes = 0;
    for (int k = 0; k < counts[out]; k++) {
        bytes += ports[out][k].bytes;
    }
    return bytes;
}

static void fill(const char *sample)
{
    for (int k = 0; k < counts[0]; k++) {
        memcpy((char *)&arena + ports[0][k].offset, sample, ports[0][k].bytes);
        sample += ports[0][k].bytes;
    }
}

static long long run(const char *sample)
{
    const long long begin = now();
    fill(sample);
#ifdef BENCH_LAYERS
    ended[0] = now();
#endif
    BENCH_RUN(&arena);
    return now() - begin;
}

static void print_run(const char *sample)
{
    printf("%lld", run(sample));
#ifdef BENCH_LAYERS
    for (int k = 1; k <= BENCH_LAYERS; k++) {
        printf(" %lld", ended[k] - ended[k - 1]);
    }
#endif
    printf("\n");
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fail("usage: SAMPLES WARM_UP RUNS PORT...");
    }
    const long samples = atol(argv[1]), timed = atol(argv[3]) ? 1 + atol(argv[2]) + atol(argv[3]) : 0;
    for (int k = 4; k < argc; k++) {
        add_port(argv[k]);
    }
    char *sample = malloc(bytes_of(0) + 1);
    FILE *in = fopen("inputs.bin", "rb"), *out = fopen("outputs.bin", "wb");
    if (sample == NULL || in == NULL || out == NULL) {
        fail("cannot open inputs.bin or outputs.bin, or no memory");
    }
    for (long n = 0; n < samples; n++) {
        if (fread(sample, 1, bytes_of(0), in) != bytes_of(0)) {
            fail("inputs.bin is too short");
        }
        for (long k = 0; n == 0 && k < timed; k++) {
            print_run(sample);
        }
        run(sample);
        for (int k = 0; k < counts[1]; k++) {
            if (fwrite((char *)&arena + ports[1][k].offset, 1, ports[1][k].bytes, out) != ports[1][k].bytes) {
                fail("cannot write outputs.bin");
            }
        }
    }
    return fclose(out) ? 1 : 0;
}
