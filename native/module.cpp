// SPDX-License-Identifier: Apache-2.0
// The Python face of the engine: checks and hands over pointers, nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/complex.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <type_traits>

#include "engine.hpp"
#include "isa.hpp"
#include "pool.hpp"
#include "profile.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Any = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Given = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

using StepArgument = std::tuple<int, std::vector<int>, int>;
using DenseArgument = std::tuple<Vector<std::complex<double>>, std::vector<int>, uint32_t, uint32_t>;
using PermutationArgument = std::tuple<Vector<uint32_t>, Vector<uint8_t>>;
using GroupArgument = std::tuple<int, uint32_t, Vector<uint32_t>, Vector<std::complex<double>>>;
using AngleArgument = std::tuple<int, int, double, double>;

qdp::Rotation rotation(uint32_t x, uint32_t z, const AngleArgument& angle, int n_parameters,
                       int n_inputs) {
  const auto& [source, index, scale, offset] = angle;
  require(source >= 0 && source <= 2, "unknown angle source");
  require(source == 0 || (index >= 0 && index < (source == 1 ? n_parameters : n_inputs)),
          "angle index out of range");
  return {x, z, qdp::Source(source), index, scale, offset, __builtin_popcount(x & z) & 3};
}

void fill(qdp::Program* p, int n_qubits, int n_parameters, int n_inputs, int n_observables,
          const Vector<uint32_t>& x, const Vector<uint32_t>& z,
          const std::vector<AngleArgument>& angles, const std::vector<StepArgument>& steps,
          const std::vector<DenseArgument>& denses,
          const std::vector<PermutationArgument>& permutations,
          const std::vector<Vector<std::complex<double>>>& tables,
          const std::vector<GroupArgument>& groups, const std::vector<AngleArgument>& phases,
          double phase_constant) {
  require(n_qubits >= 1 && n_qubits <= 30, "expected 1 to 30 qubits");
  const uint32_t mask = uint32_t((uint64_t(1) << n_qubits) - 1);
  const size_t size = size_t(1) << n_qubits;
  p->n_qubits = n_qubits;
  p->n_parameters = n_parameters;
  p->n_inputs = n_inputs;
  p->n_observables = n_observables;
  p->phase_constant = phase_constant;
  require(x.shape(0) == angles.size() && z.shape(0) == angles.size(), "rotation arrays differ");
  for (size_t i = 0; i < angles.size(); ++i) {
    require((x.data()[i] & ~mask) == 0 && (z.data()[i] & ~mask) == 0, "word out of range");
    p->rotations.push_back(rotation(x.data()[i], z.data()[i], angles[i], n_parameters, n_inputs));
  }
  for (const AngleArgument& angle : phases)
    p->phases.push_back(rotation(0, 0, angle, n_parameters, n_inputs));
  for (const auto& [matrix, bits, control_mask, control_value] : denses) {
    const size_t n = size_t(1) << bits.size();
    require(matrix.shape(0) == n * n, "matrix of the wrong size");
    for (int bit : bits) require(bit >= 0 && bit < n_qubits, "bit out of range");
    p->denses.push_back({std::vector<std::complex<double>>(matrix.data(), matrix.data() + n * n),
                         bits, control_mask & mask, control_value & mask});
  }
  for (const auto& [source, phase] : permutations) {
    require(source.shape(0) == size && phase.shape(0) == size, "permutation of the wrong size");
    for (size_t i = 0; i < size; ++i)
      require(source.data()[i] < size && phase.data()[i] < 4, "permutation out of range");
    p->permutations.push_back(
        {std::vector<uint32_t>(source.data(), source.data() + size),
         std::vector<uint8_t>(phase.data(), phase.data() + size)});
  }
  for (const auto& table : tables) {
    require(table.shape(0) == size, "table of the wrong size");
    p->tables.emplace_back(table.data(), table.data() + size);
  }
  for (const auto& [kind, rotations, item] : steps) {
    require(kind >= 0 && kind <= 4, "unknown kind of step");
    for (int index : rotations)
      require(index >= 0 && size_t(index) < p->rotations.size(), "rotation out of range");
    const size_t n_items = kind == 2   ? p->denses.size()
                           : kind == 3 ? p->permutations.size()
                           : kind == 4 ? p->tables.size()
                                       : 1;
    require(item >= 0 && size_t(item) < n_items, "item out of range");
    for (int index : rotations)
      require(kind <= 1 && (p->rotations[index].x != 0) == (kind == 0),
              "a step of rotations takes words with an X part, a diagonal step words without");
    p->steps.push_back({qdp::StepKind(kind), rotations, item});
  }
  for (const auto& [observable, x_mask, words, c] : groups) {
    require(observable >= 0 && observable < n_observables, "observable out of range");
    require(words.shape(0) == c.shape(0) && (x_mask & ~mask) == 0, "bad observable group");
    qdp::ObservableGroup group{observable, x_mask, {}, {}};
    for (size_t i = 0; i < words.shape(0); ++i) {
      require((words.data()[i] & ~mask) == 0, "observable word out of range");
      group.z.push_back(words.data()[i]);
      group.c.push_back(c.data()[i]);
    }
    p->groups.push_back(std::move(group));
  }
}

template <class A>
qdp::Element element_of(const A& array) {
  if (array.dtype() == nb::dtype<float>()) return qdp::Element::float32;
  if (array.dtype() == nb::dtype<double>()) return qdp::Element::float64;
  if (array.dtype() == nb::dtype<std::complex<float>>()) return qdp::Element::complex64;
  if (array.dtype() == nb::dtype<std::complex<double>>()) return qdp::Element::complex128;
  throw std::invalid_argument("expected float32, float64, complex64 or complex128");
}

template <class T, class A>
auto pointer(const std::optional<A>& array, size_t size, bool complex_ = false) {
  using Pointer = std::conditional_t<std::is_same_v<A, Given>, const T*, T*>;
  if (!array) return Pointer(nullptr);
  require(array->dtype() == (complex_ ? nb::dtype<std::complex<T>>() : nb::dtype<T>()),
          "array of the wrong dtype");
  require(array->size() == size, "array of the wrong size");
  return static_cast<Pointer>(array->data());
}

template <class T>
void run(const qdp::Program& p, int64_t rows, const std::optional<Given>& parameters,
         bool parameters_per_row, const std::optional<Given>& inputs,
         const std::optional<Given>& states, bool normalize, double norm_tolerance, const std::optional<Given>& indices,
         const std::optional<Given>& factors, const std::optional<Given>& phases, int repeats,
         bool closes, int layout, const std::optional<Any>& values, const std::optional<Given>& cotangents,
         const std::optional<Any>& parameter_gradient, const std::optional<Any>& input_gradient,
         const std::optional<Any>& state_gradient, const std::optional<Any>& final_states,
         const std::optional<Any>& probabilities, const std::vector<int>& probability_bits,
         const std::vector<qdp::ShiftedAngles>& shifts, const std::optional<Any>& shifted_values) {
  const size_t size = size_t(1) << p.n_qubits;
  const size_t n = size_t(rows), O = size_t(p.n_observables);
  const size_t slots = cotangents ? 1 : O;
  qdp::Request<T> r;
  r.rows = rows;
  r.parameters = pointer<double>(parameters, (parameters_per_row ? n : 1) * p.n_parameters);
  r.parameters_per_row = parameters_per_row;
  r.inputs = pointer<double>(inputs, n * p.n_inputs);
  require(p.n_parameters == 0 || r.parameters, "parameters missing");
  require(p.n_inputs == 0 || r.inputs, "inputs missing");
  if (states) {
    require(states->ndim() == 2 && states->shape(0) == n && states->shape(1) <= size &&
                states->shape(1) >= 1,
            "states of the wrong shape");
    r.element = element_of(*states);
    r.states = states->data();
    r.columns = int64_t(states->shape(1));
  }
  r.normalize = normalize;
  r.norm_tolerance = norm_tolerance;
  r.indices = pointer<int64_t>(indices, n);
  for (size_t i = 0; r.indices && i < n; ++i)
    require(r.indices[i] >= 0 && size_t(r.indices[i]) < size, "basis index out of range");
  const size_t n_qubits = size_t(p.n_qubits);
  r.factors = pointer<double>(factors, n * n_qubits * 2, true);
  r.phases = pointer<double>(phases, n * (1 + n_qubits * (n_qubits + 1) / 2));
  require(repeats >= 1, "expected at least one round");
  r.repeats = repeats;
  r.closes = closes;
  require(layout >= 0 && layout <= 2, "expected layout 0, 1 or 2");
  r.layout = qdp::LayoutChoice(layout);
  r.values = pointer<T>(values, n * O);
  r.cotangents = pointer<T>(cotangents, n * O);
  r.parameter_gradient = pointer<T>(parameter_gradient, n * slots * p.n_parameters);
  r.input_gradient = pointer<T>(input_gradient, n * slots * p.n_inputs);
  r.state_gradient = pointer<T>(state_gradient, n * slots * size, true);
  r.final_states = pointer<T>(final_states, n * size, true);
  for (int bit : probability_bits) require(bit >= 0 && bit < p.n_qubits, "bit out of range");
  r.probability_bits = probability_bits;
  r.probabilities = pointer<T>(probabilities, n << probability_bits.size());
  for (const auto& shift : shifts)
    for (const auto& [index, angle] : shift)
      require(index >= 0 && size_t(index) < p.rotations.size(), "shift out of range");
  r.shifts = shifts;
  r.shifted_values = pointer<T>(shifted_values, shifts.size() * n * O);
  require(shifts.empty() || r.shifted_values, "shifted values missing");
  nb::gil_scoped_release release;
  qdp::run(p, r);
}

template <class T>
void define_run(nb::module_& m, const char* name) {
  m.def(name, &run<T>, "program"_a, "rows"_a, "parameters"_a.none(), "parameters_per_row"_a,
        "inputs"_a.none() = nb::none(), "states"_a.none() = nb::none(), "normalize"_a = false, "norm_tolerance"_a = 0.0,
        "indices"_a.none() = nb::none(), "factors"_a.none() = nb::none(),
        "phases"_a.none() = nb::none(), "repeats"_a = 1, "closes"_a = false, "layout"_a = 0, "values"_a.none().noconvert() = nb::none(),
        "cotangents"_a.none() = nb::none(), "parameter_gradient"_a.none().noconvert() = nb::none(),
        "input_gradient"_a.none().noconvert() = nb::none(), "state_gradient"_a.none().noconvert() = nb::none(),
        "final_states"_a.none().noconvert() = nb::none(), "probabilities"_a.none().noconvert() = nb::none(),
        "probability_bits"_a = std::vector<int>(),
        "shifts"_a = std::vector<qdp::ShiftedAngles>(), "shifted_values"_a.none().noconvert() = nb::none());
}

// Calls encode(states) with the states as pairs of float or double, without the GIL.
template <class Encode>
auto with_states(const Any& states, size_t rows, int n_qubits, const Encode& encode) {
  require(n_qubits >= 1 && n_qubits <= 30 && states.ndim() == 2 && states.shape(0) == rows &&
              states.shape(1) == size_t(1) << n_qubits,
          "states of the wrong shape");
  const bool single = states.dtype() == nb::dtype<std::complex<float>>();
  require(single || states.dtype() == nb::dtype<std::complex<double>>(),
          "expected complex64 or complex128 states");
  void* out = states.data();
  nb::gil_scoped_release release;
  return single ? encode(static_cast<float*>(out)) : encode(static_cast<double*>(out));
}

int64_t encode_amplitude(const Given& features, int n_qubits, bool normalize, double tolerance,
                         const Any& states) {
  require(features.ndim() == 2 && states.ndim() == 2 && features.shape(1) <= states.shape(1),
          "expected (rows, features) and (rows, 2**n)");
  const qdp::Element element = element_of(features);
  const int64_t rows = int64_t(features.shape(0)), columns = int64_t(features.shape(1));
  return with_states(states, features.shape(0), n_qubits, [&](auto* out) {
    return qdp::encode_amplitude(features.data(), element, rows, columns, n_qubits, normalize,
                                 tolerance, out);
  });
}

void encode_product(const Given& factors, int n_qubits, const Any& states) {
  require(factors.ndim() == 3 && factors.shape(1) == size_t(n_qubits) && factors.shape(2) == 2 &&
              factors.dtype() == nb::dtype<std::complex<double>>(),
          "expected factors (rows, n, 2) complex128");
  with_states(states, factors.shape(0), n_qubits, [&](auto* out) {
    qdp::encode_product(static_cast<const double*>(factors.data()), int64_t(factors.shape(0)),
                        n_qubits, out);
  });
}

void encode_phases(const Given& coefficients, int n_qubits, int repeats, bool closes,
                   const Any& states) {
  require(coefficients.ndim() == 2 &&
              coefficients.shape(1) == size_t(1 + n_qubits + n_qubits * (n_qubits - 1) / 2) &&
              coefficients.dtype() == nb::dtype<double>(),
          "expected coefficients (rows, 1 + n + n(n-1)/2) float64");
  require(repeats >= 1, "expected at least one round");
  with_states(states, coefficients.shape(0), n_qubits, [&](auto* out) {
    qdp::encode_phases(static_cast<const double*>(coefficients.data()),
                       int64_t(coefficients.shape(0)), n_qubits, repeats, closes, out);
  });
}

void encode_basis(const Vector<int64_t>& indices, int n_qubits, const Any& states) {
  for (size_t i = 0; i < indices.shape(0); ++i)
    require(indices.data()[i] >= 0 && indices.data()[i] >> n_qubits == 0,
            "basis index out of range");
  with_states(states, indices.shape(0), n_qubits, [&](auto* out) {
    qdp::encode_basis(indices.data(), int64_t(indices.shape(0)), n_qubits, out);
  });
}

void row_sums_of_squares(const Given& array, const Any& sums) {
  require(array.ndim() == 2 && sums.ndim() == 1 && sums.shape(0) == array.shape(0) &&
              sums.dtype() == nb::dtype<double>(),
          "expected (rows, columns) and float64 (rows,)");
  const qdp::Element element = element_of(array);
  const int64_t rows = int64_t(array.shape(0)), columns = int64_t(array.shape(1));
  const void* data = array.data();
  double* out = static_cast<double*>(sums.data());
  nb::gil_scoped_release release;
  qdp::row_sums_of_squares(data, element, rows, columns, out);
}

template <class T>
void overlaps_of(const Given& left, const Given& right, bool is_complex, const Any& out) {
  const int64_t depth = int64_t(left.shape(1)) * (is_complex ? 2 : 1);
  const T* a = static_cast<const T*>(left.data());
  const T* b = static_cast<const T*>(right.data());
  T* target = static_cast<T*>(out.data());
  const int64_t left_rows = int64_t(left.shape(0)), right_rows = int64_t(right.shape(0));
  nb::gil_scoped_release release;
  qdp::overlaps(a, left_rows, b, right_rows, depth, is_complex, target);
}

void overlaps(const Given& left, const Given& right, const Any& out) {
  require(left.ndim() == 2 && right.ndim() == 2 && left.shape(1) == right.shape(1) &&
              left.dtype() == right.dtype(),
          "expected two arrays (rows, 2**n) of one dtype");
  require(out.ndim() == 2 && out.shape(0) == left.shape(0) && out.shape(1) == right.shape(0),
          "overlaps of the wrong shape");
  const bool double_ = left.dtype() == nb::dtype<double>();
  const bool complex_double = left.dtype() == nb::dtype<std::complex<double>>();
  const bool single = left.dtype() == nb::dtype<float>();
  const bool complex_single = left.dtype() == nb::dtype<std::complex<float>>();
  if (double_ || complex_double) {
    require(out.dtype() == nb::dtype<double>(), "expected float64 overlaps");
    overlaps_of<double>(left, right, complex_double, out);
  } else {
    require((single || complex_single) && out.dtype() == nb::dtype<float>(),
            "expected float32 overlaps of float32 or complex64 states");
    overlaps_of<float>(left, right, complex_single, out);
  }
}

// Runs Python's signal handlers; Ctrl-C then comes out of the run as KeyboardInterrupt.
void check_signals() {
  nb::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

}  // namespace

NB_MODULE(_core, m) {
  qdp::set_interrupt_check(check_signals);
  nb::exception<qdp::RowRefused>(m, "RowRefused", PyExc_ValueError);
  nb::class_<qdp::Program>(m, "Program")
      .def(
          "__init__",
          [](qdp::Program* self, int n_qubits, int n_parameters, int n_inputs, int n_observables,
             const Vector<uint32_t>& x, const Vector<uint32_t>& z,
             const std::vector<AngleArgument>& angles, const std::vector<StepArgument>& steps,
             const std::vector<DenseArgument>& denses,
             const std::vector<PermutationArgument>& permutations,
             const std::vector<Vector<std::complex<double>>>& tables,
             const std::vector<GroupArgument>& groups, const std::vector<AngleArgument>& phases,
             double phase_constant) {
            new (self) qdp::Program();
            try {
              fill(self, n_qubits, n_parameters, n_inputs, n_observables, x, z, angles, steps,
                   denses, permutations, tables, groups, phases, phase_constant);
            } catch (...) {
              self->~Program();
              throw;
            }
          },
          "n_qubits"_a, "n_parameters"_a, "n_inputs"_a, "n_observables"_a, "x"_a, "z"_a,
          "angles"_a, "steps"_a, "denses"_a, "permutations"_a, "tables"_a, "groups"_a, "phases"_a,
          "phase_constant"_a);
  define_run<double>(m, "run_double");
  define_run<float>(m, "run_single");
  m.def("encode_amplitude", &encode_amplitude, "features"_a, "n_qubits"_a, "normalize"_a,
        "tolerance"_a, "states"_a.noconvert());
  m.def("encode_product", &encode_product, "factors"_a, "n_qubits"_a, "states"_a.noconvert());
  m.def("encode_phases", &encode_phases, "coefficients"_a, "n_qubits"_a, "repeats"_a, "closes"_a,
        "states"_a.noconvert());
  m.def("row_sums_of_squares", &row_sums_of_squares, "array"_a, "sums"_a.noconvert());
  m.def("overlaps", &overlaps, "left"_a.noconvert(), "right"_a.noconvert(), "out"_a.noconvert());
  m.def("encode_basis", &encode_basis, "indices"_a, "n_qubits"_a, "states"_a.noconvert());
  m.def("instruction_sets", &qdp::instruction_sets);
  m.def("instruction_set", [] { return std::string(qdp::isa().name); });
  m.def("set_instruction_set", &qdp::set_instruction_set, "name"_a);
  m.def("fma_rate", &qdp::fma_rate, "seconds"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("start_profile", &qdp::start_profile);
  m.def("stop_profile", [] {
    nb::list rates;
    for (const qdp::KernelRate& rate : qdp::stop_profile())
      rates.append(nb::make_tuple(rate.kernel, rate.calls, rate.seconds, rate.flops, rate.bytes));
    return rates;
  });
  m.def("triad_rate", &qdp::triad_rate, "bytes"_a, "seconds"_a, "streaming"_a,
        nb::call_guard<nb::gil_scoped_release>());
  m.def("thread_count", &qdp::thread_count);
  m.def("set_thread_count", [](int n) {
    require(n >= 1 && n <= 1024, "expected 1 to 1024 threads");
    qdp::set_thread_count(n);
  }, "n"_a);
}
