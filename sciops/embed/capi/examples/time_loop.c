/* A trained one-step operator inside an implicit time loop.
 *
 *   cc time_loop.c -I$LIB/include -L$LIB/lib -lsciops -lm -Wl,-rpath,$LIB/lib -o time_loop
 *   ./time_loop heat_step.sciops n dt steps [bound]
 *
 * Heat on the periodic unit square, u_t = a lap u on n x n nodes, by Crank-Nicolson:
 *   (I - dt/2 a L) v = (I + dt/2 a L) u.
 * The operator (channels u, a; one step of length dt) proposes v, and the host measures the proposal's residual in its
 * own scheme. Below `bound` it is the step; otherwise the host's conjugate gradients start from it, or from u if that has
 * the smaller residual. So the loop is never worse than the scheme with tolerance `bound`, whatever the network says, and
 * goes on without it.
 * The same steps are made without the operator, and both results and the work are compared.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sciops.h"

static const double pi = 3.14159265358979323846;
static const double tolerance = 1e-10; /* of the host's own solves */

typedef struct {
    int n;
    double a, dt;
    double *r, *p, *Ap; /* memory of the solver */
} scheme;

typedef struct {
    int accepted, warm, native; /* steps: the operator's answer, started from it, or without it */
    long iterations;            /* of the host's conjugate gradients */
} tally;

/* out = u + sign dt/2 a L u */
static void half_step(const scheme *s, double sign, const double *u, double *out) {
    const int n = s->n;
    const double c = sign * 0.5 * s->dt * s->a * n * n;
    for (int i = 0; i < n; i++) {
        const double *row = u + (size_t)i * n, *up = u + (size_t)((i + 1) % n) * n,
                     *down = u + (size_t)((i + n - 1) % n) * n;
        for (int j = 0; j < n; j++)
            out[(size_t)i * n + j] =
                row[j] + c * (up[j] + down[j] + row[(j + 1) % n] + row[(j + n - 1) % n] - 4 * row[j]);
    }
}

static double dot(const double *u, const double *v, size_t size) {
    double sum = 0;
    for (size_t i = 0; i < size; i++) sum += u[i] * v[i];
    return sum;
}

/* |b - A v| / |b|, and b - A v in s->r. */
static double residual(const scheme *s, const double *b, const double *v) {
    const size_t size = (size_t)s->n * s->n;
    half_step(s, -1, v, s->r);
    for (size_t i = 0; i < size; i++) s->r[i] = b[i] - s->r[i];
    return sqrt(dot(s->r, s->r, size) / dot(b, b, size));
}

/* The host's own solver: conjugate gradients from v; returns the iterations. */
static int native_solve(const scheme *s, const double *b, double *v) {
    const size_t size = (size_t)s->n * s->n;
    const double goal = tolerance * tolerance * dot(b, b, size);
    int iterations = 0;
    residual(s, b, v);
    memcpy(s->p, s->r, size * sizeof *s->p);
    double rr = dot(s->r, s->r, size);
    for (; rr > goal && iterations < 10000; iterations++) {
        half_step(s, -1, s->p, s->Ap);
        const double alpha = rr / dot(s->p, s->Ap, size);
        for (size_t i = 0; i < size; i++) v[i] += alpha * s->p[i], s->r[i] -= alpha * s->Ap[i];
        const double next = dot(s->r, s->r, size);
        for (size_t i = 0; i < size; i++) s->p[i] = s->r[i] + next / rr * s->p[i];
        rr = next;
    }
    return iterations;
}

/* One step u -> v. input (2, n, n) holds u and a for the operator; model NULL: the host alone. */
static void step(const scheme *s, const sciops_model *model, double bound, double *input, double *b, double *v,
                 tally *t) {
    const size_t size = (size_t)s->n * s->n;
    const int64_t shape[2] = {s->n, s->n};
    static int warned = 0;
    half_step(s, 1, input, b);
    if (model != NULL && sciops_solve(model, 2, shape, input, v, NULL) == SCIOPS_OK) {
        const double proposed = residual(s, b, v);
        if (proposed <= bound) {
            t->accepted++;
            return;
        }
        if (proposed < residual(s, b, input)) {
            t->warm++;
        } else { /* the old state is the better start */
            memcpy(v, input, size * sizeof *v);
            t->native++;
        }
    } else {
        if (model != NULL && !warned++) fprintf(stderr, "time_loop: %s The host goes on alone.\n", sciops_last_error());
        memcpy(v, input, size * sizeof *v);
        t->native++;
    }
    t->iterations += native_solve(s, b, v);
}

/* u after `steps` steps, in place. */
static void march(const scheme *s, const sciops_model *model, double bound, int steps, double *u, tally *t) {
    const size_t size = (size_t)s->n * s->n;
    double *input = malloc(4 * size * sizeof *input), *b = input + 2 * size, *v = b + size;
    if (input == NULL) exit(1);
    memcpy(input, u, size * sizeof *u);
    for (size_t i = 0; i < size; i++) input[size + i] = s->a;
    for (int k = 0; k < steps; k++) {
        step(s, model, bound, input, b, v, t);
        memcpy(input, v, size * sizeof *v);
    }
    memcpy(u, input, size * sizeof *u);
    free(input);
}

static void initial(int n, double *u) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const double x = (double)i / n, y = (double)j / n;
            u[(size_t)i * n + j] = 1 + exp(3 * cos(2 * pi * (x + y)) - 3) - 0.4 * exp(2 * sin(2 * pi * (2 * x - y)) - 2);
        }
}

static double relative_difference(const double *u, const double *v, size_t size) {
    double sum = 0, scale = 0;
    for (size_t i = 0; i < size; i++) sum += (u[i] - v[i]) * (u[i] - v[i]), scale += v[i] * v[i];
    return sqrt(sum / scale);
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: time_loop heat_step.sciops n dt steps [bound]\n");
        return 2;
    }
    const int n = atoi(argv[2]), steps = atoi(argv[4]);
    const double bound = argc > 5 ? atof(argv[5]) : 1e-2;
    const size_t size = (size_t)n * n;
    sciops_model *model = NULL;
    if (sciops_load(argv[1], NULL, &model) != SCIOPS_OK)
        fprintf(stderr, "time_loop: %s The host goes on alone.\n", sciops_last_error());

    double *u = malloc(5 * size * sizeof *u), *v = u + size;
    if (u == NULL) return 1;
    const scheme s = {n, 0.005, atof(argv[3]), u + 2 * size, u + 3 * size, u + 4 * size};
    tally alone = {0}, with = {0};
    initial(n, u);
    march(&s, NULL, bound, steps, u, &alone);
    initial(n, v);
    march(&s, model, bound, steps, v, &with);
    sciops_free(model);

    const double difference = relative_difference(v, u, size);
    printf("host alone:    %d steps, %ld iterations\n", alone.native, alone.iterations);
    printf("with operator: %d accepted, %d warm starts, %d native steps, %ld iterations\n", with.accepted, with.warm,
           with.native, with.iterations);
    printf("difference     %.2e\n", difference);
    free(u);
    /* A residual of `bound` in every step moves u by no more than that: the inverse of I - dt/2 a L is at most one. */
    return difference <= 2 * steps * bound + 1e-8 ? 0 : 1;
}
