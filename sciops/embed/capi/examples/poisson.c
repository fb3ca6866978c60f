/* -div(a grad u) = f on the unit square, u = 0 around it, by conjugate gradients with a multigrid artefact.
 *
 *   cc poisson.c -I$LIB/include -L$LIB/lib -lsciops -lm -Wl,-rpath,$LIB/lib -o poisson
 *   ./poisson multigrid.sciops 128
 *
 * Cell-centred finite volumes on n x n cells; a = exp(sin 2 pi x cos 2 pi y) and u = sin(pi x) sin(2 pi y) are given, f
 * follows. The error of the answer must fall four times when n is doubled. SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "sciops.h"

static const double pi = 3.14159265358979323846;

static double coefficient(double x, double y) { return exp(sin(2 * pi * x) * cos(2 * pi * y)); }
static double exact(double x, double y) { return sin(pi * x) * sin(2 * pi * y); }

/* f = -a (u_xx + u_yy + s_x u_x + s_y u_y) with a = exp(s). */
static double source(double x, double y) {
    const double sx = 2 * pi * cos(2 * pi * x) * cos(2 * pi * y), sy = -2 * pi * sin(2 * pi * x) * sin(2 * pi * y);
    const double ux = pi * cos(pi * x) * sin(2 * pi * y), uy = 2 * pi * sin(pi * x) * cos(2 * pi * y);
    return -coefficient(x, y) * (-5 * pi * pi * exact(x, y) + sx * ux + sy * uy);
}

/* matrix (3, n, n): the diagonal, couplings with the next row, couplings with the next column; rows times h^2. */
static void assemble(int n, double *matrix, double *b) {
    const double h = 1.0 / n;
    double *diagonal = matrix, *down = matrix + (size_t)n * n, *right = down + (size_t)n * n;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const size_t cell = (size_t)i * n + j;
            const double x = (i + 0.5) * h, y = (j + 0.5) * h;
            const double north = coefficient(x + h / 2, y), south = coefficient(x - h / 2, y);
            const double east = coefficient(x, y + h / 2), west = coefficient(x, y - h / 2);
            /* The wall is half a cell away: twice the coupling, in the diagonal alone. */
            diagonal[cell] = (i < n - 1 ? north : 2 * north) + (i > 0 ? south : 2 * south) +
                             (j < n - 1 ? east : 2 * east) + (j > 0 ? west : 2 * west);
            down[cell] = i < n - 1 ? north : 0;
            right[cell] = j < n - 1 ? east : 0;
            b[cell] = h * h * source(x, y);
        }
}

/* Solves on n x n cells; returns the root mean square error, or -1 after a failure. */
static double solve(const sciops_model *model, int n) {
    const size_t cells = (size_t)n * n;
    const int64_t shape[2] = {n, n};
    const sciops_krylov options = {.tolerance = 1e-10, .maxiter = 200};
    sciops_preconditioner *cycle = NULL;
    sciops_report report = {0};
    double *matrix = malloc(5 * cells * sizeof *matrix), *b = matrix + 3 * cells, *u = b + cells, sum = 0;
    if (matrix == NULL) return -1;
    assemble(n, matrix, b);
    for (size_t i = 0; i < cells; i++) u[i] = 0;

    int status = sciops_setup(model, 2, shape, matrix, &cycle);
    if (status == SCIOPS_OK) status = sciops_fcg(cycle, b, u, &options, &report);
    if (status != SCIOPS_OK) fprintf(stderr, "poisson: %s\n", sciops_last_error());
    sciops_preconditioner_free(cycle);

    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const double error = u[(size_t)i * n + j] - exact((i + 0.5) / n, (j + 0.5) / n);
            sum += error * error;
        }
    free(matrix);
    if (status != SCIOPS_OK) return -1;
    printf("%4d x %-4d  %2d iterations, residual %.1e, error %.3e\n", n, n, report.iterations, report.residual,
           sqrt(sum / cells));
    return sqrt(sum / cells);
}

int main(int argc, char **argv) {
    sciops_model *model = NULL;
    const int n = argc > 2 ? atoi(argv[2]) : 128;
    if (argc < 2 || n < 8) {
        fprintf(stderr, "usage: poisson multigrid.sciops [n >= 8]\n");
        return 2;
    }
    if (sciops_load(argv[1], NULL, &model) != SCIOPS_OK) {
        fprintf(stderr, "poisson: %s\n", sciops_last_error());
        return 1;
    }
    const double coarse = solve(model, n / 2), fine = solve(model, n);
    sciops_free(model);
    if (coarse < 0 || fine < 0) return 1;
    const double order = log2(coarse / fine);
    printf("order of convergence %.2f\n", order);
    return order > 1.8 ? 0 : 1;
}
