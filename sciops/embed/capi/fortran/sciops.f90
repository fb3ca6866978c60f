! sciops: trained PDE solvers in Fortran programs. SPDX-License-Identifier: Apache-2.0
!
! Arrays are those of Fortran: x(i, j) or x(i, j, k), channels last. Every call has an optional `status`: with it the
! program goes on and reads sciops_last_error(); without it a failure stops the program with that sentence.
module sciops
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: error_unit
  implicit none
  private

  public :: sciops_load, sciops_free, sciops_describe, sciops_is_linear, sciops_accepts, sciops_channels
  public :: sciops_solve, sciops_setup, sciops_apply, sciops_fcg, sciops_last_error, sciops_version

  integer, parameter, public :: SCIOPS_OK = 0, SCIOPS_FILE = 1, SCIOPS_CHECKSUM = 2, SCIOPS_BAD_VERSION = 3, &
    SCIOPS_KIND = 4, SCIOPS_SHAPE = 5, SCIOPS_VALUE = 6, SCIOPS_NONFINITE = 7, SCIOPS_BACKEND = 8, &
    SCIOPS_MEMORY = 9, SCIOPS_NOT_CONVERGED = 10
  integer, parameter, public :: sciops_real = c_double

  ! An artefact that was loaded.
  type, public :: sciops_model
    type(c_ptr) :: handle = c_null_ptr
  end type

  ! z = B r for one matrix, and the grid of that matrix.
  type, public :: sciops_preconditioner
    type(c_ptr) :: handle = c_null_ptr
    integer :: cells = 0
  end type

  type, bind(c) :: c_options
    integer(c_int) :: precision, threads
  end type
  type, bind(c) :: c_range
    real(c_double) :: outside
    integer(c_int) :: channel
  end type
  type, bind(c) :: c_krylov
    real(c_double) :: tolerance
    integer(c_int) :: maxiter, window, safeguard, null_space
  end type
  type, bind(c) :: c_report
    integer(c_int) :: iterations, fallbacks
    real(c_double) :: residual
  end type

  interface
    integer(c_int) function c_load(path, options, model) bind(c, name="sciops_load")
      import :: c_int, c_char, c_ptr, c_options
      character(kind=c_char), intent(in) :: path(*)
      type(c_options), intent(in) :: options
      type(c_ptr), intent(out) :: model
    end function
    subroutine c_free(model) bind(c, name="sciops_free")
      import :: c_ptr
      type(c_ptr), value :: model
    end subroutine
    type(c_ptr) function c_describe(model) bind(c, name="sciops_describe")
      import :: c_ptr
      type(c_ptr), value :: model
    end function
    integer(c_int) function c_channels(model, inputs, outputs) bind(c, name="sciops_channels")
      import :: c_ptr, c_int
      type(c_ptr), value :: model
      integer(c_int), intent(out) :: inputs, outputs
    end function
    integer(c_int) function c_is_linear(model) bind(c, name="sciops_is_linear")
      import :: c_ptr, c_int
      type(c_ptr), value :: model
    end function
    integer(c_int) function c_accepts(model, ndim, extents) bind(c, name="sciops_accepts")
      import :: c_ptr, c_int, c_int64_t
      type(c_ptr), value :: model
      integer(c_int), value :: ndim
      integer(c_int64_t), intent(in) :: extents(*)
    end function
    integer(c_int) function c_solve(model, ndim, extents, input, output, outside) bind(c, name="sciops_solve")
      import :: c_ptr, c_int, c_int64_t, c_double, c_range
      type(c_ptr), value :: model
      integer(c_int), value :: ndim
      integer(c_int64_t), intent(in) :: extents(*)
      real(c_double), intent(in) :: input(*)
      real(c_double), intent(inout) :: output(*)
      type(c_range), intent(inout) :: outside
    end function
    integer(c_int) function c_setup(model, ndim, extents, matrix, preconditioner) bind(c, name="sciops_setup")
      import :: c_ptr, c_int, c_int64_t, c_double
      type(c_ptr), value :: model
      integer(c_int), value :: ndim
      integer(c_int64_t), intent(in) :: extents(*)
      real(c_double), intent(in) :: matrix(*)
      type(c_ptr), intent(out) :: preconditioner
    end function
    integer(c_int) function c_apply(preconditioner, r, z) bind(c, name="sciops_apply")
      import :: c_ptr, c_int, c_double
      type(c_ptr), value :: preconditioner
      real(c_double), intent(in) :: r(*)
      real(c_double), intent(inout) :: z(*)
    end function
    subroutine c_preconditioner_free(preconditioner) bind(c, name="sciops_preconditioner_free")
      import :: c_ptr
      type(c_ptr), value :: preconditioner
    end subroutine
    integer(c_int) function c_fcg(preconditioner, b, x, options, report) bind(c, name="sciops_fcg")
      import :: c_ptr, c_int, c_double, c_krylov, c_report
      type(c_ptr), value :: preconditioner
      real(c_double), intent(in) :: b(*)
      real(c_double), intent(inout) :: x(*)
      type(c_krylov), intent(in) :: options
      type(c_report), intent(inout) :: report
    end function
    type(c_ptr) function c_last_error() bind(c, name="sciops_last_error")
      import :: c_ptr
    end function
    type(c_ptr) function c_version() bind(c, name="sciops_version")
      import :: c_ptr
    end function
    subroutine c_exit(code) bind(c, name="exit")
      import :: c_int
      integer(c_int), value :: code
    end subroutine
    integer(c_size_t) function c_strlen(text) bind(c, name="strlen")
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
    end function
  end interface

  ! call sciops_solve(model, input, output): fields (i, j, channel) or (i, j, k, channel).
  interface sciops_solve; module procedure solve_2d, solve_3d; end interface
  ! call sciops_setup(model, diagonal, ci, cj, [ck,] preconditioner): ci(i, j) = -A couples (i, j) with (i + 1, j).
  interface sciops_setup; module procedure setup_2d, setup_3d; end interface
  interface sciops_apply; module procedure apply_2d, apply_3d; end interface
  interface sciops_fcg; module procedure fcg_2d, fcg_3d; end interface
  interface sciops_free; module procedure free_model, free_preconditioner; end interface

contains

  ! precision: 32, 64 or 0 (the lowest of the artefact); threads: of one call, 0 leaves the setting alone.
  subroutine sciops_load(path, model, precision, threads, status)
    character(len=*), intent(in) :: path
    type(sciops_model), intent(out) :: model
    integer, intent(in), optional :: precision, threads
    integer, intent(out), optional :: status
    type(c_options) :: options
    options = c_options(0, 0)
    if (present(precision)) options%precision = precision
    if (present(threads)) options%threads = threads
    call finish(c_load(trim(path)//c_null_char, options, model%handle), status)
  end subroutine

  subroutine free_model(model)
    type(sciops_model), intent(inout) :: model
    call c_free(model%handle)
    model%handle = c_null_ptr
  end subroutine

  subroutine free_preconditioner(preconditioner)
    type(sciops_preconditioner), intent(inout) :: preconditioner
    call c_preconditioner_free(preconditioner%handle)
    preconditioner%handle = c_null_ptr
    preconditioner%cells = 0
  end subroutine

  function sciops_describe(model) result(text)
    type(sciops_model), intent(in) :: model
    character(len=:), allocatable :: text
    text = fortran_text(c_describe(model%handle))
  end function

  subroutine sciops_channels(model, inputs, outputs, status)
    type(sciops_model), intent(in) :: model
    integer, intent(out) :: inputs, outputs
    integer, intent(out), optional :: status
    call finish(c_channels(model%handle, inputs, outputs), status)
  end subroutine

  logical function sciops_is_linear(model)
    type(sciops_model), intent(in) :: model
    sciops_is_linear = c_is_linear(model%handle) == 1
  end function

  ! extents: those of the Fortran array, fastest index first; the reason of a no is in sciops_last_error().
  logical function sciops_accepts(model, extents)
    type(sciops_model), intent(in) :: model
    integer, intent(in) :: extents(:)
    sciops_accepts = c_accepts(model%handle, size(extents), reversed(extents)) == 1
  end function

  ! outside: how far inputs leave the training range, as a fraction of its width; channel: which does, 0 for none.
  subroutine solve_2d(model, input, output, outside, channel, status)
    type(sciops_model), intent(in) :: model
    real(c_double), contiguous, intent(in) :: input(:, :, :)
    real(c_double), contiguous, intent(inout) :: output(:, :, :)
    real(c_double), intent(out), optional :: outside
    integer, intent(out), optional :: channel, status
    call solve_any(model, shape(input), shape(output), input, output, outside, channel, status)
  end subroutine

  subroutine solve_3d(model, input, output, outside, channel, status)
    type(sciops_model), intent(in) :: model
    real(c_double), contiguous, intent(in) :: input(:, :, :, :)
    real(c_double), contiguous, intent(inout) :: output(:, :, :, :)
    real(c_double), intent(out), optional :: outside
    integer, intent(out), optional :: channel, status
    call solve_any(model, shape(input), shape(output), input, output, outside, channel, status)
  end subroutine

  subroutine solve_any(model, extents, answered, input, output, outside, channel, status)
    type(sciops_model), intent(in) :: model
    integer, intent(in) :: extents(:), answered(:)
    real(c_double), intent(in) :: input(*)
    real(c_double), intent(inout) :: output(*)
    real(c_double), intent(out), optional :: outside
    integer, intent(out), optional :: channel, status
    type(c_range) :: range
    integer :: ndim, inputs, outputs, code
    range = c_range(0, -1)
    ndim = size(extents) - 1
    code = c_channels(model%handle, inputs, outputs)
    if (code == SCIOPS_OK .and. (extents(ndim + 1) /= inputs .or. answered(ndim + 1) /= outputs &
                                 .or. any(extents(:ndim) /= answered(:ndim)))) then
      call refuse("The arrays of sciops_solve have other channels than the model, or two grids.", SCIOPS_SHAPE, status)
      return
    end if
    if (code == SCIOPS_OK) code = c_solve(model%handle, ndim, reversed(extents(:ndim)), input, output, range)
    if (present(outside)) outside = range%outside
    if (present(channel)) channel = range%channel + 1
    call finish(code, status)
  end subroutine

  subroutine setup_2d(model, diagonal, ci, cj, preconditioner, status)
    type(sciops_model), intent(in) :: model
    real(c_double), intent(in) :: diagonal(:, :), ci(:, :), cj(:, :)
    type(sciops_preconditioner), intent(out) :: preconditioner
    integer, intent(out), optional :: status
    real(c_double), allocatable :: matrix(:, :, :)
    if (any(shape(ci) /= shape(diagonal)) .or. any(shape(cj) /= shape(diagonal))) then
      call refuse("The diagonal and the couplings of sciops_setup do not have one shape.", SCIOPS_SHAPE, status)
      return
    end if
    allocate (matrix(size(diagonal, 1), size(diagonal, 2), 3))
    matrix(:, :, 1) = diagonal
    matrix(:, :, 2) = cj
    matrix(:, :, 3) = ci
    preconditioner%cells = size(diagonal)
    call finish(c_setup(model%handle, 2, reversed(shape(diagonal)), matrix, preconditioner%handle), status)
  end subroutine

  subroutine setup_3d(model, diagonal, ci, cj, ck, preconditioner, status)
    type(sciops_model), intent(in) :: model
    real(c_double), intent(in) :: diagonal(:, :, :), ci(:, :, :), cj(:, :, :), ck(:, :, :)
    type(sciops_preconditioner), intent(out) :: preconditioner
    integer, intent(out), optional :: status
    real(c_double), allocatable :: matrix(:, :, :, :)
    if (any(shape(ci) /= shape(diagonal)) .or. any(shape(cj) /= shape(diagonal)) &
        .or. any(shape(ck) /= shape(diagonal))) then
      call refuse("The diagonal and the couplings of sciops_setup do not have one shape.", SCIOPS_SHAPE, status)
      return
    end if
    allocate (matrix(size(diagonal, 1), size(diagonal, 2), size(diagonal, 3), 4))
    matrix(:, :, :, 1) = diagonal
    matrix(:, :, :, 2) = ck
    matrix(:, :, :, 3) = cj
    matrix(:, :, :, 4) = ci
    preconditioner%cells = size(diagonal)
    call finish(c_setup(model%handle, 3, reversed(shape(diagonal)), matrix, preconditioner%handle), status)
  end subroutine

  subroutine apply_2d(preconditioner, r, z, status)
    type(sciops_preconditioner), intent(in) :: preconditioner
    real(c_double), contiguous, intent(in) :: r(:, :)
    real(c_double), contiguous, intent(inout) :: z(:, :)
    integer, intent(out), optional :: status
    if (of_grid(preconditioner, size(r), size(z), status)) call finish(c_apply(preconditioner%handle, r, z), status)
  end subroutine

  subroutine apply_3d(preconditioner, r, z, status)
    type(sciops_preconditioner), intent(in) :: preconditioner
    real(c_double), contiguous, intent(in) :: r(:, :, :)
    real(c_double), contiguous, intent(inout) :: z(:, :, :)
    integer, intent(out), optional :: status
    if (of_grid(preconditioner, size(r), size(z), status)) call finish(c_apply(preconditioner%handle, r, z), status)
  end subroutine

  ! A x = b; x holds the start and the answer.
  subroutine fcg_2d(preconditioner, b, x, tolerance, maxiter, window, safeguard, null_space, iterations, residual, &
                    fallbacks, status)
    type(sciops_preconditioner), intent(in) :: preconditioner
    real(c_double), contiguous, intent(in) :: b(:, :)
    real(c_double), contiguous, intent(inout) :: x(:, :)
    real(c_double), intent(in), optional :: tolerance
    integer, intent(in), optional :: maxiter, window
    logical, intent(in), optional :: safeguard, null_space
    integer, intent(out), optional :: iterations, fallbacks, status
    real(c_double), intent(out), optional :: residual
    type(c_report) :: report
    integer :: code
    if (.not. of_grid(preconditioner, size(b), size(x), status)) return
    code = c_fcg(preconditioner%handle, b, x, krylov(tolerance, maxiter, window, safeguard, null_space), report)
    call told(report, code, iterations, residual, fallbacks, status)
  end subroutine

  subroutine fcg_3d(preconditioner, b, x, tolerance, maxiter, window, safeguard, null_space, iterations, residual, &
                    fallbacks, status)
    type(sciops_preconditioner), intent(in) :: preconditioner
    real(c_double), contiguous, intent(in) :: b(:, :, :)
    real(c_double), contiguous, intent(inout) :: x(:, :, :)
    real(c_double), intent(in), optional :: tolerance
    integer, intent(in), optional :: maxiter, window
    logical, intent(in), optional :: safeguard, null_space
    integer, intent(out), optional :: iterations, fallbacks, status
    real(c_double), intent(out), optional :: residual
    type(c_report) :: report
    integer :: code
    if (.not. of_grid(preconditioner, size(b), size(x), status)) return
    code = c_fcg(preconditioner%handle, b, x, krylov(tolerance, maxiter, window, safeguard, null_space), report)
    call told(report, code, iterations, residual, fallbacks, status)
  end subroutine

  type(c_krylov) function krylov(tolerance, maxiter, window, safeguard, null_space)
    real(c_double), intent(in), optional :: tolerance
    integer, intent(in), optional :: maxiter, window
    logical, intent(in), optional :: safeguard, null_space
    krylov = c_krylov(1e-8_c_double, 500, 0, 1, 0)
    if (present(tolerance)) krylov%tolerance = tolerance
    if (present(maxiter)) krylov%maxiter = maxiter
    if (present(window)) krylov%window = window
    if (present(safeguard)) krylov%safeguard = merge(1, 0, safeguard)
    if (present(null_space)) krylov%null_space = merge(1, 0, null_space)
  end function

  subroutine told(report, code, iterations, residual, fallbacks, status)
    type(c_report), intent(in) :: report
    integer(c_int), intent(in) :: code
    integer, intent(out), optional :: iterations, fallbacks, status
    real(c_double), intent(out), optional :: residual
    if (present(iterations)) iterations = report%iterations
    if (present(fallbacks)) fallbacks = report%fallbacks
    if (present(residual)) residual = report%residual
    call finish(code, status)
  end subroutine

  function sciops_last_error() result(text)
    character(len=:), allocatable :: text
    text = fortran_text(c_last_error())
  end function

  function sciops_version() result(text)
    character(len=:), allocatable :: text
    text = fortran_text(c_version())
  end function

  logical function of_grid(preconditioner, first, second, status)
    type(sciops_preconditioner), intent(in) :: preconditioner
    integer, intent(in) :: first, second
    integer, intent(out), optional :: status
    of_grid = first == preconditioner%cells .and. second == preconditioner%cells
    if (.not. of_grid) call refuse("The arrays do not have the shape of sciops_setup.", SCIOPS_SHAPE, status)
  end function

  subroutine finish(code, status)
    integer(c_int), intent(in) :: code
    integer, intent(out), optional :: status
    if (present(status)) then
      status = code
    else if (code /= SCIOPS_OK) then
      call refuse(sciops_last_error(), code)
    end if
  end subroutine

  subroutine refuse(sentence, code, status)
    character(len=*), intent(in) :: sentence
    integer, intent(in) :: code
    integer, intent(out), optional :: status
    if (present(status)) then
      status = code
    else
      write (error_unit, "(2a)") "sciops: ", sentence
      call c_exit(1_c_int)
    end if
  end subroutine

  function reversed(extents) result(c_shape)
    integer, intent(in) :: extents(:)
    integer(c_int64_t) :: c_shape(size(extents))
    c_shape = int(extents(size(extents):1:-1), c_int64_t)
  end function

  function fortran_text(pointer) result(text)
    type(c_ptr), intent(in) :: pointer
    character(len=:), allocatable :: text
    character(kind=c_char), pointer :: characters(:)
    integer :: i
    call c_f_pointer(pointer, characters, [c_strlen(pointer)])
    allocate (character(len=size(characters)) :: text)
    do i = 1, size(characters)
      text(i:i) = characters(i)
    end do
  end function

end module
