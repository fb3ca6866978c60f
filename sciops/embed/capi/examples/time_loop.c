/* A trained one-step operator inside an implicit time loop, beside its rivals.
 *
 *   cc -O3 -march=native time_loop.c -I$LIB/include -L$LIB/lib -lsciops -lm -Wl,-rpath,$LIB/lib -o time_loop
 *   ./time_loop heat_step.sciops n dt steps [tolerance [switching|smooth [exponent [seed]]]]
 *
 * A heated plate, u_t = div(k(u) grad u) - u + f on the periodic unit square, k = 0.05 (1 + u)^-exponent, on n x n points
 * by one implicit step with k at the old state:
 *   A v = u + dt f,   A v = (1 + dt) v - dt div_h(k grad_h v)       (symmetric positive, another matrix in every step)
 * The operator (channels u, f; one step of length dt) was trained on these very steps and proposes v. What the host does
 * with proposals, whoever makes them:
 *   check    a proposal is taken where it lowers the energy 1/2 v.Av - b.v, which needs its residual alone
 *   project  of u plus any combination of the proposed changes take the one with the smallest energy. This start is
 *            never worse than u in the norm of A, whatever was proposed
 *   solve    conjugate gradients from there to `tolerance` |b|; a start that is below it already is accepted as the step
 * So every loop is as accurate as `tolerance`, with or without a network, and goes on where the network fails.
 * Printed for each kind of start: accepted steps, iterations, CPU seconds (start, network call and solve; the matrix is the same
 * for all and not counted), the error of the start relative to that of u in the norm of A, and how far the last state is
 * from that of a loop to 1e-12.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sciops.h"

enum { UNITS = 6, INCREMENTS = 8, WARMUP = 10 };
static const double pi = 3.14159265358979323846, k0 = 0.05, loss = 1.0, exact = 1e-12;

typedef struct {
    int n;
    size_t size;
    double dt, exponent;
    double *right, *below, *diagonal; /* dt k / h^2 on the faces towards j + 1 and i + 1 */
    double *r, *z, *p, *Ap;           /* memory of the solver */
} scheme;

typedef struct {
    const char *name;
    int network, increments, project; /* what it proposes: the operator's change, the last changes of the loop */
} policy;

typedef struct {
    int accepted, refused; /* steps that the start made alone; proposals that did not lower the energy */
    long iterations;
    double seconds, mean, worst; /* error of the start in the norm of A, relative to that of the old state */
    double allowed;              /* what residuals below the tolerance may add up to */
} tally;

static double *vector(size_t count) {
    double *made = calloc(count, sizeof *made);
    if (made == NULL) exit(1);
    return made;
}

static double dot(const double *x, const double *y, size_t size) {
    double sum = 0;
    for (size_t i = 0; i < size; i++) sum += x[i] * y[i];
    return sum;
}

static void add(double *y, double a, const double *x, size_t size) {
    for (size_t i = 0; i < size; i++) y[i] += a * x[i];
}

/* ---- the scheme */

static void assemble(scheme *s, const double *u) {
    const int n = s->n;
    const double c = 0.5 * s->dt * n * n;
    for (size_t i = 0; i < s->size; i++) s->z[i] = k0 * pow(1 + fmax(u[i], 0), -s->exponent);
    for (int i = 0; i < n; i++) {
        const double *k = s->z + (size_t)i * n, *next = s->z + (size_t)((i + 1) % n) * n;
        for (int j = 0; j < n; j++) {
            s->right[(size_t)i * n + j] = c * (k[j] + k[(j + 1) % n]);
            s->below[(size_t)i * n + j] = c * (k[j] + next[j]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const size_t row = (size_t)i * n, above = (size_t)((i + n - 1) % n) * n;
            s->diagonal[row + j] = 1 + s->dt * loss + s->right[row + j] + s->right[row + (j + n - 1) % n] +
                                   s->below[row + j] + s->below[above + j];
        }
}

/* y = A v */
static void apply(const scheme *s, const double *v, double *y) {
    const int n = s->n;
    for (int i = 0; i < n; i++) {
        const size_t row = (size_t)i * n, up = (size_t)((i + n - 1) % n) * n, down = (size_t)((i + 1) % n) * n;
        const double *restrict d = s->diagonal + row, *restrict e = s->right + row, *restrict S = s->below + row,
                     *restrict N = s->below + up, *restrict x = v + row, *restrict above = v + up,
                     *restrict under = v + down;
        double *restrict out = y + row;
        for (int j = 1; j < n - 1; j++)
            out[j] = d[j] * x[j] - e[j] * x[j + 1] - e[j - 1] * x[j - 1] - S[j] * under[j] - N[j] * above[j];
        out[0] = d[0] * x[0] - e[0] * x[1] - e[n - 1] * x[n - 1] - S[0] * under[0] - N[0] * above[0];
        out[n - 1] = d[n - 1] * x[n - 1] - e[n - 1] * x[0] - e[n - 2] * x[n - 2] - S[n - 1] * under[n - 1] -
                     N[n - 1] * above[n - 1];
    }
}

/* s->r = b - A v */
static void residual(const scheme *s, const double *b, const double *v) {
    apply(s, v, s->r);
    for (size_t i = 0; i < s->size; i++) s->r[i] = b[i] - s->r[i];
}

/* The host's own solver: conjugate gradients from v, preconditioned by the diagonal; returns the iterations. */
static int solve(const scheme *s, const double *b, double *v, double tolerance) {
    const double goal = tolerance * tolerance * dot(b, b, s->size);
    double rho = 0;
    int iterations = 0;
    residual(s, b, v);
    for (; dot(s->r, s->r, s->size) > goal && iterations < 100000; iterations++) {
        for (size_t i = 0; i < s->size; i++) s->z[i] = s->r[i] / s->diagonal[i];
        const double next = dot(s->r, s->z, s->size), beta = iterations ? next / rho : 0;
        for (size_t i = 0; i < s->size; i++) s->p[i] = s->z[i] + beta * s->p[i];
        apply(s, s->p, s->Ap);
        const double alpha = next / dot(s->p, s->Ap, s->size);
        add(v, alpha, s->p, s->size);
        add(s->r, -alpha, s->Ap, s->size);
        rho = next;
    }
    return iterations;
}

/* ---- starts */

/* v += the combination of the changes d that minimises the energy; made A-orthogonal one after the other. */
static void project(const scheme *s, const double *b, double *v, double **d, double **Ad, int count) {
    residual(s, b, v);
    for (int k = 0; k < count; k++) {
        apply(s, d[k], Ad[k]);
        const double before = dot(d[k], Ad[k], s->size);
        for (int j = 0; j < k; j++) {
            const double energy = dot(d[j], Ad[j], s->size), c = energy > 0 ? dot(d[k], Ad[j], s->size) / energy : 0;
            add(d[k], -c, d[j], s->size);
            add(Ad[k], -c, Ad[j], s->size);
        }
        const double energy = dot(d[k], Ad[k], s->size);
        if (!(energy > 1e-12 * before)) { /* nothing new */
            memset(d[k], 0, s->size * sizeof **d);
            memset(Ad[k], 0, s->size * sizeof **Ad);
            continue;
        }
        const double alpha = dot(s->r, d[k], s->size) / energy;
        add(v, alpha, d[k], s->size);
        add(s->r, -alpha, Ad[k], s->size);
    }
}

/* v += d where that lowers the energy: f(v + d) - f(v) = -d.(r(v) + r(v + d)) / 2. */
static int check(const scheme *s, const double *b, double *v, const double *d) {
    residual(s, b, v);
    const double old = dot(s->r, d, s->size);
    add(v, 1, d, s->size);
    residual(s, b, v);
    if (old + dot(s->r, d, s->size) > 0) return 1;
    add(v, -1, d, s->size);
    return 0;
}

/* The operator's change: answer - u in d; 0 where it has none. input (2, n, n) holds u and f. */
static int propose(const scheme *s, const sciops_model *model, const double *input, double *d) {
    static int warned = 0;
    const int64_t shape[2] = {s->n, s->n};
    if (sciops_solve(model, 2, shape, input, d, NULL) != SCIOPS_OK) {
        if (!warned++) fprintf(stderr, "time_loop: %s The host goes on alone.\n", sciops_last_error());
        return 0;
    }
    add(d, -1, input, s->size);
    return 1;
}

/* ---- sources: six units of one device, as in training */

static const double units[UNITS][3] = { /* x, y, width */
    {0.20, 0.30, 0.07}, {0.55, 0.20, 0.05}, {0.80, 0.45, 0.09}, {0.35, 0.65, 0.05}, {0.65, 0.75, 0.08}, {0.10, 0.85, 0.06},
};

typedef struct {
    double power[UNITS], phase[UNITS];
    unsigned char *on; /* (steps, UNITS) */
    int smooth;
} heating;

static double uniform(uint64_t *state) {
    *state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (double)(*state >> 11) / 9007199254740992.0;
}

static heating heat(int steps, int smooth, uint64_t seed) {
    heating h;
    uint64_t state = seed * 2862933555777941757ULL + 3037000493ULL;
    for (int k = 0; k < 20; k++) uniform(&state);
    h.smooth = smooth;
    h.on = malloc((size_t)steps * UNITS);
    if (h.on == NULL) exit(1);
    for (int k = 0; k < UNITS; k++) {
        h.power[k] = 2 + 6 * uniform(&state), h.phase[k] = 2 * pi * uniform(&state);
        for (int t = 0; t < steps; t++) {
            const int before = t ? h.on[(t - 1) * UNITS + k] : uniform(&state) < 0.5;
            h.on[t * UNITS + k] = (unsigned char)(before ^ (uniform(&state) < 0.3));
        }
    }
    return h;
}

/* The sources during step t: switched on and off, or with powers in waves of 40 steps. */
static void source(const heating *h, int t, int n, double *f) {
    memset(f, 0, (size_t)n * n * sizeof *f);
    for (int k = 0; k < UNITS; k++) {
        const double x = units[k][0], y = units[k][1], c = 0.5 / (pi * pi * units[k][2] * units[k][2]);
        const double wave = 0.75 + 0.25 * sin(2 * pi * t / 40 + h->phase[k]);
        const double power = h->power[k] * (h->smooth ? wave : h->on[t * UNITS + k]);
        if (power == 0) continue;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                const double a = sin(pi * ((double)i / n - x)), b = sin(pi * ((double)j / n - y));
                f[(size_t)i * n + j] += power * exp(-c * (a * a + b * b));
            }
    }
}

/* ---- the loop */

/* |x|_A, with Ax in `memory`. */
static double norm(const scheme *s, const double *x, double *memory) {
    apply(s, x, memory);
    return sqrt(fmax(dot(x, memory, s->size), 0));
}

/* u after all steps of h, in place. */
static tally march(scheme *s, const sciops_model *model, const policy *how, const heating *h, int steps,
                   double tolerance, double *u) {
    const size_t size = s->size, bytes = size * sizeof *u;
    double *memory = vector(size * (2 * (INCREMENTS + 1) + INCREMENTS + 6));
    double *d[INCREMENTS + 1], *Ad[INCREMENTS + 1], *last[INCREMENTS], *rest = memory;
    for (int k = 0; k <= INCREMENTS; k++) d[k] = rest, Ad[k] = rest + size, rest += 2 * size;
    for (int k = 0; k < INCREMENTS; k++) last[k] = rest, rest += size;
    double *input = rest, *f = input + size, *b = f + size, *v = b + size, *truth = v + size, *error = truth + size;
    tally t = {0};
    int known = 0;
    memcpy(input, u, bytes);
    for (int k = 0; k < steps; k++) {
        source(h, k, s->n, f);
        assemble(s, input);
        for (size_t i = 0; i < size; i++) b[i] = input[i] + s->dt * f[i];

        const clock_t first = clock();
        int count = 0;
        memcpy(v, input, bytes);
        if (how->network && propose(s, model, input, d[0])) count = 1;
        for (int j = 0; j < how->increments && j < known; j++) memcpy(d[count++], last[j], bytes);
        if (how->project)
            project(s, b, v, d, Ad, count);
        else if (count && !check(s, b, v, d[0]))
            t.refused++;
        const clock_t second = clock();
        memcpy(error, v, bytes); /* the start, to be judged below */
        const clock_t third = clock();
        const int iterations = solve(s, b, v, tolerance);
        t.seconds += (double)(clock() - third + second - first) / CLOCKS_PER_SEC;
        t.iterations += iterations;
        t.accepted += iterations == 0;
        t.allowed += tolerance * sqrt(dot(b, b, size)) / (1 + loss * s->dt);

        memcpy(truth, v, bytes);
        solve(s, b, truth, exact);
        add(error, -1, truth, size);
        const double start = norm(s, error, s->Ap);
        for (size_t i = 0; i < size; i++) error[i] = input[i] - truth[i];
        const double ratio = start / fmax(norm(s, error, s->Ap), 1e-300);
        t.mean += ratio / steps;
        t.worst = fmax(t.worst, ratio);

        double *oldest = last[INCREMENTS - 1];
        memmove(last + 1, last, (INCREMENTS - 1) * sizeof *last);
        last[0] = oldest;
        for (size_t i = 0; i < size; i++) oldest[i] = v[i] - input[i];
        if (known < INCREMENTS) known++;
        memcpy(input, v, bytes);
    }
    memcpy(u, input, bytes);
    free(memory);
    return t;
}

int main(int argc, char **argv) {
    static const policy native = {"", 0, 0, 0}, every[] = {
        {"previous state", 0, 0, 0},
        {"extrapolation", 0, 1, 0},
        {"last 8 changes, projected", 0, INCREMENTS, 1},
        {"network", 1, 0, 0},
        {"network, projected", 1, 0, 1},
        {"network and 8 changes, projected", 1, INCREMENTS, 1},
    };
    if (argc < 5 || atoi(argv[2]) < 3) {
        fprintf(stderr, "usage: time_loop heat_step.sciops n dt steps [tolerance [switching|smooth [exponent [seed]]]]\n");
        return 2;
    }
    const int n = atoi(argv[2]), steps = atoi(argv[4]);
    const double tolerance = argc > 5 ? atof(argv[5]) : 1e-3;
    const int smooth = argc > 6 && strcmp(argv[6], "smooth") == 0;
    scheme s = {.n = n, .size = (size_t)n * n, .dt = atof(argv[3]), .exponent = argc > 7 ? atof(argv[7]) : 4.0 / 3.0};
    heating h = heat(WARMUP + steps, smooth, argc > 8 ? (uint64_t)atoll(argv[8]) : 1);
    const sciops_options options = {.threads = 1};
    sciops_model *model = NULL;
    if (sciops_load(argv[1], &options, &model) != SCIOPS_OK)
        fprintf(stderr, "time_loop: %s The host goes on alone.\n", sciops_last_error());

    double *memory = vector(10 * s.size), *rest = memory;
    double **parts[] = {&s.right, &s.below, &s.diagonal, &s.r, &s.z, &s.p, &s.Ap};
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) *parts[k] = rest, rest += s.size;
    double *begin = rest, *reference = rest + s.size, *u = rest + 2 * s.size;
    march(&s, NULL, &native, &h, WARMUP, exact, begin);
    h.on += WARMUP * UNITS; /* smooth sources begin anew */
    memcpy(reference, begin, s.size * sizeof *u);
    march(&s, NULL, &native, &h, steps, exact, reference);
    const double scale = sqrt(dot(reference, reference, s.size));

    int wrong = 0;
    printf("%-34s %8s %8s %11s %10s %14s %11s\n", "start", "accepted", "refused", "iterations", "seconds",
           "error (worst)", "difference");
    for (size_t k = 0; k < sizeof every / sizeof *every; k++) {
        if (every[k].network && model == NULL) continue;
        memcpy(u, begin, s.size * sizeof *u);
        const tally t = march(&s, model, every + k, &h, steps, tolerance, u);
        add(u, -1, reference, s.size);
        const double difference = sqrt(dot(u, u, s.size)) / scale;
        printf("%-34s %8d %8d %11ld %10.4f %6.3f (%5.3f) %11.2e\n", every[k].name, t.accepted, t.refused,
               t.iterations, t.seconds, t.mean, t.worst, difference);
        /* A >= 1 + dt turns residuals into errors; the dependence of k on u may carry them on, twice is ample here. */
        wrong += !(difference <= 2 * t.allowed / scale + 1e-8);
    }
    sciops_free(model);
    free(h.on - WARMUP * UNITS);
    free(memory);
    return wrong ? 1 : 0;
}
