! -div(a grad u) = f on the unit square, u = 0 around it, by conjugate gradients with a multigrid artefact.
!
!   gfortran -I$LIB/include poisson.f90 -L$LIB/lib -lsciops_fortran -lsciops -Wl,-rpath,$LIB/lib -o poisson
!   ./poisson multigrid.sciops 128
!
! The problem of poisson.c; u(i, j) lies at x = (i - 1/2) h, y = (j - 1/2) h. SPDX-License-Identifier: Apache-2.0
program poisson
  use sciops
  implicit none
  integer, parameter :: dp = sciops_real
  real(dp), parameter :: pi = acos(-1.0_dp)
  type(sciops_model) :: model
  character(len=1024) :: path, word
  integer :: n
  real(dp) :: coarse, fine, order

  n = 128
  if (command_argument_count() < 1) error stop "usage: poisson multigrid.sciops [n]"
  call get_command_argument(1, path)
  if (command_argument_count() > 1) then
    call get_command_argument(2, word)
    read (word, *) n
  end if
  call sciops_load(path, model)
  coarse = solved(n/2)
  fine = solved(n)
  call sciops_free(model)
  order = log(coarse/fine)/log(2.0_dp)
  print "(a, f5.2)", "order of convergence ", order
  if (order < 1.8_dp) error stop 1

contains

  ! Solves on n x n cells and returns the root mean square error.
  real(dp) function solved(n)
    integer, intent(in) :: n
    type(sciops_preconditioner) :: cycle
    real(dp), dimension(n, n) :: diagonal, ci, cj, b, u, truth
    real(dp) :: h, x, y, residual
    integer :: i, j, iterations
    h = 1.0_dp/n
    do j = 1, n
      do i = 1, n
        x = (i - 0.5_dp)*h
        y = (j - 0.5_dp)*h
        ci(i, j) = a(x + h/2, y)
        cj(i, j) = a(x, y + h/2)
        diagonal(i, j) = ci(i, j) + cj(i, j) + a(x - h/2, y) + a(x, y - h/2)
        b(i, j) = h**2*source(x, y)
        truth(i, j) = exact(x, y)
      end do
    end do
    ! The wall is half a cell away: twice the coupling, in the diagonal alone.
    do i = 1, n
      x = (i - 0.5_dp)*h
      diagonal(1, i) = diagonal(1, i) + a(0.0_dp, x)
      diagonal(n, i) = diagonal(n, i) + a(1.0_dp, x)
      diagonal(i, 1) = diagonal(i, 1) + a(x, 0.0_dp)
      diagonal(i, n) = diagonal(i, n) + a(x, 1.0_dp)
    end do
    ci(n, :) = 0
    cj(:, n) = 0
    u = 0
    call sciops_setup(model, diagonal, ci, cj, cycle)
    call sciops_fcg(cycle, b, u, tolerance=1e-10_dp, maxiter=200, safeguard=.false., iterations=iterations, &
                    residual=residual)
    call sciops_free(cycle)
    solved = sqrt(sum((u - truth)**2)/n**2)
    print "(i4, a, i0, t14, i0, a, es8.1, a, es10.3)", n, " x ", n, iterations, " iterations, residual ", residual, &
      ", error ", solved
  end function

  real(dp) function a(x, y)
    real(dp), intent(in) :: x, y
    a = exp(sin(2*pi*x)*cos(2*pi*y))
  end function

  real(dp) function exact(x, y)
    real(dp), intent(in) :: x, y
    exact = sin(pi*x)*sin(2*pi*y)
  end function

  ! -a (u_xx + u_yy + s_x u_x + s_y u_y) with a = exp(s)
  real(dp) function source(x, y)
    real(dp), intent(in) :: x, y
    real(dp) :: sx, sy, ux, uy
    sx = 2*pi*cos(2*pi*x)*cos(2*pi*y)
    sy = -2*pi*sin(2*pi*x)*sin(2*pi*y)
    ux = pi*cos(pi*x)*sin(2*pi*y)
    uy = 2*pi*sin(pi*x)*cos(2*pi*y)
    source = -a(x, y)*(-5*pi**2*exact(x, y) + sx*ux + sy*uy)
  end function

end program
