/* An operator artefact answers, the host measures how good the answer is, and finishes it where that is not enough.
 *
 *   cc operator.c -I$LIB/include -L$LIB/lib -lsciops -lm -Wl,-rpath,$LIB/lib -o operator
 *   ./operator poisson.sciops 65 [bound]
 *
 * The operator maps f to u, -lap u = f and u = 0 around the unit square, both at n x n nodes, walls included. A
 * network's answer is a guess. Its residual in the host's own differences says how good; above `bound` the host's
 * conjugate gradients go on from it, and their iterations are compared with a start from zero.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sciops.h"

static double bump(double x, double y) { return exp(-60 * (x * x + y * y)); }

/* out = -h^2 lap u inside, 0 on the walls. */
static void laplacian(int n, const double *u, double *out) {
    memset(out, 0, (size_t)n * n * sizeof *out);
    for (int i = 1; i < n - 1; i++)
        for (int j = 1; j < n - 1; j++) {
            const double *c = u + (size_t)i * n + j;
            out[(size_t)i * n + j] = 4 * c[0] - c[1] - c[-1] - c[n] - c[-n];
        }
}

static double dot(const double *u, const double *v, size_t size) {
    double sum = 0;
    for (size_t i = 0; i < size; i++) sum += u[i] * v[i];
    return sum;
}

/* Conjugate gradients from u to |b - A u| <= tolerance |b|; returns the iterations. *first: the residual at the start.
 */
static int finish(int n, const double *b, double *u, double tolerance, double *first) {
    const size_t size = (size_t)n * n;
    double *r = malloc(3 * size * sizeof *r), *p = r + size, *Ap = p + size, scale = sqrt(dot(b, b, size));
    int iterations = 0;
    if (r == NULL) exit(1);
    laplacian(n, u, r);
    for (size_t i = 0; i < size; i++) p[i] = r[i] = b[i] - r[i];
    double rr = dot(r, r, size);
    *first = sqrt(rr) / scale;
    for (; sqrt(rr) > tolerance * scale && iterations < 10000; iterations++) {
        laplacian(n, p, Ap);
        const double alpha = rr / dot(p, Ap, size), before = rr;
        for (size_t i = 0; i < size; i++) u[i] += alpha * p[i], r[i] -= alpha * Ap[i];
        rr = dot(r, r, size);
        for (size_t i = 0; i < size; i++) p[i] = r[i] + rr / before * p[i];
    }
    free(r);
    return iterations;
}

static int failed(void) {
    fprintf(stderr, "operator: %s\n", sciops_last_error());
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: operator poisson.sciops n [bound]\n");
        return 2;
    }
    const int n = atoi(argv[2]);
    const double bound = argc > 3 ? atof(argv[3]) : 1e-6, h = 1.0 / (n - 1);
    const int64_t shape[2] = {n, n};
    const size_t size = (size_t)n * n;
    sciops_model *model = NULL;
    sciops_range range;
    int inputs, outputs;
    if (sciops_load(argv[1], NULL, &model) != SCIOPS_OK) return failed();
    if (!sciops_accepts(model, 2, shape)) return failed();
    sciops_channels(model, &inputs, &outputs);
    if (inputs != 1 || outputs != 1) {
        fprintf(stderr, "operator: this program wants f -> u, one channel each.\n");
        return 1;
    }
    double *f = calloc(4 * size, sizeof *f), *b = f + size, *u = b + size, *alone = u + size;
    if (f == NULL) return 1;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            f[(size_t)i * n + j] = bump(i * h - 0.3, j * h - 0.6) - 0.5 * bump(i * h - 0.7, j * h - 0.35);
    for (int i = 1; i < n - 1; i++)
        for (int j = 1; j < n - 1; j++) b[(size_t)i * n + j] = h * h * f[(size_t)i * n + j];

    if (sciops_solve(model, 2, shape, f, u, &range) != SCIOPS_OK) return failed();
    sciops_free(model);
    if (range.outside_channel >= 0) printf("the input leaves the training range by %.0f %%\n", 100 * range.outside);
    for (int i = 0; i < n; i++)
        u[i] = u[size - n + i] = u[(size_t)i * n] = u[(size_t)i * n + n - 1] = 0; /* the walls */

    double guess, zero, error = 0, truth = 0;
    double *answer = malloc(size * sizeof *answer);
    if (answer == NULL) return 1;
    memcpy(answer, u, size * sizeof *u);
    const int cold = finish(n, b, alone, bound, &zero), warm = finish(n, b, u, bound, &guess);
    for (size_t i = 0; i < size; i++) error += (answer[i] - u[i]) * (answer[i] - u[i]), truth += u[i] * u[i];
    printf("answer: residual %.2e, error %.2e\n", guess, sqrt(error / truth));
    printf("to %.0e: %d iterations from the answer, %d from zero\n", bound, warm, cold);
    free(answer);
    free(f);
    return error <= truth ? 0 : 1; /* an answer that is no better than none */
}
