/* How long loading and one call take on this machine, in CPU seconds.
 *
 *   cc latency.c -I$LIB/include -L$LIB/lib -lsciops -Wl,-rpath,$LIB/lib -o latency
 *   ./latency operator.sciops 128 50
 * SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sciops.h"

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static int failed(void) {
    fprintf(stderr, "latency: %s\n", sciops_last_error());
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: latency operator.sciops n calls\n");
        return 2;
    }
    const int n = atoi(argv[2]), calls = atoi(argv[3]);
    const int64_t shape[2] = {n, n};
    const sciops_options options = {.precision = 32, .threads = 1};
    sciops_model *model = NULL;
    int inputs, outputs;
    const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), wall = seconds(CLOCK_MONOTONIC);
    if (sciops_load(argv[1], &options, &model) != SCIOPS_OK) return failed();
    printf("load_cpu %.4f\nload_wall %.4f\n", seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, seconds(CLOCK_MONOTONIC) - wall);

    sciops_channels(model, &inputs, &outputs);
    const size_t cells = (size_t)n * n;
    double *in = malloc(inputs * cells * sizeof *in), *out = malloc(outputs * cells * sizeof *out), best = 1e9;
    if (in == NULL || out == NULL) return 1;
    for (size_t i = 0; i < inputs * cells; i++) in[i] = (double)(i * 7919 % 1000) / 1000;
    for (int call = 0; call < calls; call++) {
        const double start = seconds(CLOCK_PROCESS_CPUTIME_ID);
        if (sciops_solve(model, 2, shape, in, out, NULL) != SCIOPS_OK) return failed();
        const double took = seconds(CLOCK_PROCESS_CPUTIME_ID) - start;
        if (took < best) best = took;
    }
    printf("call_cpu %.6f\n", best);
    free(in);
    free(out);
    sciops_free(model);
    return 0;
}
