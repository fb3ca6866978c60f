/* A host program for the tests: host MODEL n CALLS [traps | overflow]. Every call is checked; memory is read at the start
 * and end. `overflow` makes one itself, and dies of it. */
#define _GNU_SOURCE
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sciops.h"

static long resident_kib(void) {
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%ld %ld", &ignored, &pages) != 2) pages = 0;
    if (file != NULL) fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static int failed(const char *what) {
    fprintf(stderr, "%s: %s\n", what, sciops_last_error());
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    const int n = atoi(argv[2]), calls = atoi(argv[3]), traps = argc > 4;
    const int64_t shape[2] = {n, n};
    const size_t cells = (size_t)n * n;
    if (traps) feenableexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
    const int before = fegetexcept();
    if (traps && strcmp(argv[4], "overflow") == 0) {
        volatile double big = 1e300;
        big = big * big;
    }

    const double start = cpu_seconds();
    sciops_model *model = NULL;
    if (sciops_load(argv[1], NULL, &model) != SCIOPS_OK) return failed("load");
    printf("load_seconds %.4f\n", cpu_seconds() - start);
    int inputs, outputs;
    sciops_channels(model, &inputs, &outputs);

    double *in = calloc((inputs + 4) * cells, sizeof *in), *out = calloc((outputs + 1) * cells, sizeof *out);
    double *matrix = in + inputs * cells;
    for (size_t i = 0; i < inputs * cells; i++) in[i] = sin(0.1 * (double)i) + (i == cells / 2);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const size_t k = (size_t)i * n + j;
            matrix[k] = 4, matrix[cells + k] = i < n - 1, matrix[2 * cells + k] = j < n - 1;
        }
    sciops_preconditioner *f = NULL;
    const int preconditions = sciops_setup(model, 2, shape, matrix, &f) == SCIOPS_OK;
    if (!preconditions && strstr(sciops_last_error(), "is an operator") == NULL) return failed("setup");

    long settled = 0;
    double spent = 0, best = 1e9;
    for (int call = 0; call < calls; call++) {
        if (call == calls / 4) settled = resident_kib();
        const double from = cpu_seconds();
        if (preconditions ? sciops_apply(f, in, out) : sciops_solve(model, 2, shape, in, out, NULL)) return failed("call");
        const double took = cpu_seconds() - from;
        spent += took, best = took < best ? took : best;
        if (fegetexcept() != before || fetestexcept(FE_INVALID | FE_OVERFLOW)) {
            fprintf(stderr, "the floating-point environment was changed\n");
            return 1;
        }
        if (preconditions && call % 100 == 99) { /* set-up and failures must not leak either */
            const sciops_krylov options = {.tolerance = 1e-6, .maxiter = 3};
            sciops_report report;
            double *x = calloc(cells, sizeof *x);
            sciops_fcg(f, in, x, &options, &report);
            free(x);
            sciops_preconditioner_free(f);
            matrix[0] = -4;
            if (sciops_setup(model, 2, shape, matrix, &f) != SCIOPS_VALUE) return failed("negative diagonal");
            matrix[0] = 4;
            if (sciops_setup(model, 2, shape, matrix, &f) != SCIOPS_OK) return failed("setup");
        }
    }
    printf("calls %d\nmean_seconds %.6f\nbest_seconds %.6f\nsettled_kib %ld\nfinal_kib %ld\n", calls, spent / calls, best,
           settled, resident_kib());
    sciops_preconditioner_free(f);
    sciops_free(model);
    for (int again = 0; again < 3; again++) { /* load and free, and a load that fails */
        if (sciops_load(argv[1], NULL, &model) != SCIOPS_OK) return failed("load");
        sciops_free(model);
        if (sciops_load("/nowhere", NULL, &model) != SCIOPS_FILE) return failed("nowhere");
    }
    free(in);
    free(out);
    return 0;
}
