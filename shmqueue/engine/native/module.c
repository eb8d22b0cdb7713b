/* module.c: the module, and those methods of Ring that move no items. */
#include "python_ring.h"

#include <fcntl.h>
#include <structmember.h>
#include <sys/mman.h>

#define RETURN_PATIENCE_NS INT64_C(1000000000) /* for the lock, at the end of a handle that has leases */

static PyObject *Ring_clear(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct patience patience = {.for_lock = true, .deadline = WAIT_FOREVER};
    uint64_t dropped = 0;
    int again = 1;
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_clear(&self->ring, &dropped, patience));
        if (status == RING_OK) {
            return PyLong_FromUnsignedLongLong(dropped);
        }
        again = after(self, status);
    }
    return NULL;
}

static PyObject *Ring_task_done(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    if (!is_open(self)) {
        return NULL;
    }
    enum ring_status status = ring_task_done(&self->ring);
    return status == RING_BROKEN ? raise_broken(self) : PyBool_FromLong(status == RING_OK);
}

static PyObject *Ring_join(RingObject *self, PyObject *timeout)
{
    int64_t deadline;
    int again = 1;
    if (!deadline_from(timeout, &deadline)) {
        return NULL;
    }
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_join(&self->ring, deadline));
        if (status == RING_OK) {
            Py_RETURN_TRUE;
        }
        again = after(self, status);
    }
    return again < 0 ? NULL : PyBool_FromLong(0);
}

static PyObject *Ring_qsize(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct figures figures;
    if (!is_open(self)) {
        return NULL;
    }
    if (ring_figures(&self->ring, &figures) != RING_OK) {
        return raise_broken(self);
    }
    return PyLong_FromUnsignedLongLong(figures.put.count - figures.get.count);
}

static PyObject *Ring_counters(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    struct figures figures;
    if (!is_open(self)) {
        return NULL;
    }
    if (ring_figures(&self->ring, &figures) != RING_OK) {
        return raise_broken(self);
    }
    return Py_BuildValue("KKKKKKKKNNN", (unsigned long long)figures.put.position, (unsigned long long)figures.put.count,
                         (unsigned long long)figures.get.position, (unsigned long long)figures.get.count,
                         (unsigned long long)figures.get.dropped, (unsigned long long)figures.done,
                         (unsigned long long)figures.high_water, (unsigned long long)figures.recoveries,
                         PyBool_FromLong(figures.putters_waiting), PyBool_FromLong(figures.getters_waiting),
                         PyBool_FromLong(figures.put.shut != SHUT_NOT));
}

static PyObject *Ring_wait(RingObject *self, PyObject *const *args, Py_ssize_t count)
{
    int records, again = 1;
    int64_t deadline;
    if (!count_is("wait", count, 2) || (records = truth(args[0])) < 0 || !deadline_from(args[1], &deadline)) {
        return NULL;
    }
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_wait(&self->ring, records, deadline));
        if (status == RING_OK) {
            Py_RETURN_TRUE;
        }
        again = after(self, status);
    }
    return again < 0 ? NULL : PyBool_FromLong(0);
}

static PyObject *Ring_shut_down(RingObject *self, PyObject *immediate)
{
    struct patience patience = {.for_lock = true, .deadline = WAIT_FOREVER};
    int again = 1, at_once = truth(immediate);
    if (at_once < 0) {
        return NULL;
    }
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_shut_down(&self->ring, at_once, patience));
        if (status == RING_OK) {
            Py_RETURN_NONE;
        }
        again = after(self, status);
    }
    return NULL;
}

static PyObject *Ring_maxsize(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    return is_open(self) ? PyLong_FromUnsignedLongLong(ring_maxsize(&self->ring)) : NULL;
}

static PyObject *Ring_set_maxsize(RingObject *self, PyObject *number)
{
    struct patience patience = {.for_lock = true, .deadline = WAIT_FOREVER};
    int again = 1;
    unsigned long long maxsize = PyLong_AsUnsignedLongLong(number);
    if (maxsize == (unsigned long long)-1) { /* which is one too many, too */
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_OverflowError, "maxsize must be less than 2**64 - 1");
        }
        return NULL;
    }
    while (again == 1) {
        enum ring_status status;
        if (!is_open(self)) {
            return NULL;
        }
        WITHOUT_GIL(self, status = ring_set_maxsize(&self->ring, maxsize, patience));
        if (status == RING_OK) {
            Py_RETURN_NONE;
        }
        again = after(self, status);
    }
    return NULL;
}

void unmap(RingObject *self)
{
    if (self->memory != NULL) {
        ring_close(&self->ring);
        ring_unmap(self->memory, self->size);
        self->memory = NULL;
    }
    if (self->ring.file >= 0) {
        if (ring_owns_file(&self->ring)) {
            close(self->ring.file);
        }
        self->ring.file = -1;
    }
}

static bool is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* When no call is in flight any more: one that was may have taken an item. */
static void give_back_loans(RingObject *self)
{
    struct patience patience = {.for_lock = true, .deadline = monotonic_ns() + RETURN_PATIENCE_NS};
    if (self->loans > 0 && self->memory != NULL && !ring_is_poisoned(&self->ring)) {
        self->loans = 0;
        WITHOUT_GIL(self, (void)ring_return_all(&self->ring, patience));
    }
}

static PyObject *Ring_close(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->memory == NULL) {
        Py_RETURN_NONE;
    }
    if (!self->closing && !ring_is_poisoned(&self->ring)) {
        WITHOUT_GIL(self, ring_trim(&self->ring, true));
    }
    self->closing = true;
    enter(self); /* also forgets calls of the parent after a fork */
    atomic_fetch_sub(&self->users, 1);
    ring_interrupt_all(&self->ring);
    for (uint32_t users; (users = atomic_load(&self->users)) != 0;) {
        if (is_finalizing()) { /* those threads have stopped for good, so the memory stays mapped */
            Py_RETURN_NONE;
        }
        Py_BEGIN_ALLOW_THREADS
        futex_wait(&self->users, users, WAIT_FOREVER);
        Py_END_ALLOW_THREADS
    }
    give_back_loans(self);
    if (self->views == 0) { /* else the last loan unmaps when nobody looks at its bytes any more */
        unmap(self);
    }
    Py_RETURN_NONE;
}

static PyObject *Ring_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    int file;
    Py_ssize_t size;
    PyObject *name, *report, *path;
    if (!PyArg_ParseTuple(args, "inUOO&:Ring", &file, &size, &name, &report, PyUnicode_FSConverter, &path)) {
        return NULL;
    }
    RingObject *self = (RingObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(path);
        return NULL;
    }
    self->path = path;
    self->name = Py_NewRef(name);
    self->report = Py_NewRef(report);
    self->ring.file = -1;
    self->fast_puts = self->fast_gets = true;
    self->lock_patience = 1.0;
    struct header header = {0};
    if (pread(file, &header, sizeof header, 0) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    uint64_t mapped = ring_first_mapping(&header);
    self->size = (size_t)(mapped < (uint64_t)size ? mapped : (uint64_t)size); /* ring_open() judges it */
    void *memory = ring_map(file, self->size);
    if (memory == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    self->memory = memory;
    const char *wrong = ring_open(&self->ring, memory, self->size, (uint64_t)size, file);
    if (wrong != NULL) {
        self->ring.file = -1; /* not ours to close */
    } else {
        self->ring.path = PyBytes_AS_STRING(path);
        self->ring.file = fcntl(file, F_DUPFD_CLOEXEC, 0);
        if (self->ring.file < 0) {
            PyErr_SetFromErrno(PyExc_OSError);
            Py_DECREF(self);
            return NULL;
        }
    }
    if (wrong != NULL) {
        PyErr_Format(state_of(self)->corrupted_error, "queue %R: %s", name, wrong);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void Ring_dealloc(RingObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    unmap(self);
    Py_XDECREF(self->name);
    Py_XDECREF(self->report);
    Py_XDECREF(self->while_waiting);
    Py_XDECREF(self->path);
    for (size_t i = 0; i < KEYS; i++) {
        Py_XDECREF(self->keys[i]);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

ALONE_FAST(Ring_put)
ALONE_FAST(Ring_put_item)
ALONE_FAST(Ring_put_items)
ALONE_FAST(Ring_put_many)
ALONE_FAST(Ring_get)
ALONE_FAST(Ring_get_item)
ALONE_FAST(Ring_get_items)
ALONE_FAST(Ring_lend)
ALONE_FAST(Ring_lease)
ALONE_FAST(Ring_get_many)
ALONE_FAST(Ring_peek)
ALONE_FAST(Ring_wait)
ALONE_FAST(Ring_reserve)
ALONE_PLAIN(Ring_take, RingObject, self)
ALONE_PLAIN(Ring_moment, RingObject, self)
ALONE_PLAIN(Ring_pass_on, RingObject, self)
ALONE_PLAIN(Ring_clear, RingObject, self)
ALONE_PLAIN(Ring_task_done, RingObject, self)
ALONE_PLAIN(Ring_join, RingObject, self)
ALONE_PLAIN(Ring_qsize, RingObject, self)
ALONE_PLAIN(Ring_counters, RingObject, self)
ALONE_PLAIN(Ring_lease_figures, RingObject, self)
ALONE_PLAIN(Ring_shut_down, RingObject, self)
ALONE_PLAIN(Ring_maxsize, RingObject, self)
ALONE_PLAIN(Ring_set_maxsize, RingObject, self)
ALONE_PLAIN(Ring_close, RingObject, self)

#define FAST(name) {#name, (PyCFunction)(void (*)(void))ALONE(Ring_##name), METH_FASTCALL, NULL}
#define PLAIN(name, arguments) {#name, (PyCFunction)ALONE(Ring_##name), arguments, NULL}

static PyMethodDef Ring_methods[] = { /* documented in shmqueue.engine.Engine, shmqueue.items */
    FAST(put),
    FAST(put_item),
    FAST(put_items),
    FAST(put_many),
    FAST(get),
    FAST(get_item),
    FAST(get_items),
    FAST(lend),
    FAST(lease),
    FAST(get_many),
    FAST(reserve),
    FAST(peek),
    FAST(wait),
    PLAIN(take, METH_O),
    PLAIN(moment, METH_O),
    PLAIN(pass_on, METH_NOARGS),
    PLAIN(clear, METH_NOARGS),
    PLAIN(task_done, METH_NOARGS),
    PLAIN(join, METH_O),
    PLAIN(qsize, METH_NOARGS),
    PLAIN(counters, METH_NOARGS),
    PLAIN(lease_figures, METH_NOARGS),
    PLAIN(shut_down, METH_O),
    PLAIN(maxsize, METH_NOARGS),
    PLAIN(set_maxsize, METH_O),
    PLAIN(close, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Ring_members[] = {
    {"fast_puts", T_BOOL, offsetof(RingObject, fast_puts), 0, "Whether put() of a QueueBase may put."},
    {"fast_gets", T_BOOL, offsetof(RingObject, fast_gets), 0, "Whether get() and lease() of a QueueBase may get."},
    {"lock_patience", T_DOUBLE, offsetof(RingObject, lock_patience), 0, "See shmqueue.engine.Engine."},
    {"while_waiting", T_OBJECT, offsetof(RingObject, while_waiting), 0, "See shmqueue.engine.Engine."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot Ring_slots[] = {
    {Py_tp_doc, "Ring(fd, size, name, report, path): the native engine's handle on a segment; see shmqueue.engine.Engine."},
    {Py_tp_new, Ring_new},
    {Py_tp_dealloc, Ring_dealloc},
    {Py_tp_methods, Ring_methods},
    {Py_tp_members, Ring_members},
    {0, NULL},
};

static PyType_Spec Ring_spec = {
    .name = "shmqueue.engine.native._core.Ring",
    .basicsize = sizeof(RingObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Ring_slots,
};

/* ---- the type Record ---- */

static PyType_Slot Record_slots[] = {
    {Py_tp_doc, "A record that must be loaded, (method, payload): a type of its own, for an item may be a tuple."},
    {0, NULL},
};

static PyType_Spec Record_spec = {
    .name = "shmqueue.engine.native._core.Record",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, /* the sizes are those of a tuple */
    .slots = Record_slots,
};

/* ---- the module ---- */

static PyObject *core_data_size(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long initial, capacity;
    if (!PyArg_ParseTuple(args, "KK:data_size", &initial, &capacity)) {
        return NULL;
    }
    uint64_t size = ring_data_size(initial, capacity);
    if (size == 0 || size > (uint64_t)PY_SSIZE_T_MAX - LAYOUT_HEADER_SIZE) {
        PyErr_Format(PyExc_ValueError, "there is no queue that grows from %llu to %llu bytes", initial, capacity);
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(size);
}

static PyMethodDef module_methods[] = {
    {"data_size", core_data_size, METH_VARARGS, "data_size(initial, capacity): see shmqueue.engine.data_size."},
    {"lease_type", core_lease_type, METH_O, "lease_type(base): the type of what Ring.lease() returns; see shmqueue.leases.Lease."},
    {NULL, NULL, 0, NULL},
};

/* A type that is an attribute of the module; NULL with an exception set. */
static PyTypeObject *public_type(PyObject *module, PyType_Spec *spec, PyTypeObject *base)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, (PyObject *)base);
    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) < 0) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

static int module_exec(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    PyObject *exceptions = PyImport_ImportModule("shmqueue.exceptions");
    if (exceptions == NULL) {
        return -1;
    }
    state->value_error = PyObject_GetAttrString(exceptions, "ShmQueueValueError");
    state->corrupted_error = PyObject_GetAttrString(exceptions, "ShmQueueCorruptedError");
    state->not_initialized_error = PyObject_GetAttrString(exceptions, "ShmQueueNotInitializedError");
    state->shut_down_error = PyObject_GetAttrString(exceptions, "ShmQueueShutDown");
    state->error = PyObject_GetAttrString(exceptions, "ShmQueueError");
    Py_DECREF(exceptions);
    if (state->value_error == NULL || state->corrupted_error == NULL || state->not_initialized_error == NULL ||
        state->shut_down_error == NULL || state->error == NULL) {
        return -1;
    }
    int error = lock_init();
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    static const char *const slow_names[SLOW_METHODS] = {"_slow_put", "_slow_get", "_slow_lease"};
    for (size_t i = 0; i < SLOW_METHODS; i++) {
        state->slow_names[i] = PyUnicode_InternFromString(slow_names[i]);
        if (state->slow_names[i] == NULL) {
            return -1;
        }
    }
    state->loan_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &Loan_spec, NULL);
    state->reservation_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &Reservation_spec, NULL);
    if (state->loan_type == NULL || state->reservation_type == NULL) {
        return -1;
    }
    state->ring_type = public_type(module, &Ring_spec, NULL);
    state->queue_base_type = public_type(module, &QueueBase_spec, NULL);
    state->coroutine_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &Coroutine_spec, NULL);
    if (state->queue_base_type == NULL || state->coroutine_type == NULL) {
        return -1;
    }
    PyTypeObject *method_type = public_type(module, &CoroutineMethod_spec, NULL);
    Py_XDECREF(method_type); /* the module has it */
    PyTypeObject *anchor_type = public_type(module, &Anchor_spec, NULL);
    Py_XDECREF(anchor_type); /* the module has it */
    PyTypeObject *bell_type = public_type(module, &Bell_spec, NULL);
    Py_XDECREF(bell_type); /* the module has it */
    state->record_type = public_type(module, &Record_spec, &PyTuple_Type);
    state->nothing = state->record_type != NULL ? PyObject_CallNoArgs((PyObject *)state->record_type) : NULL;
    return state->ring_type != NULL && method_type != NULL && anchor_type != NULL && bell_type != NULL &&
                   state->nothing != NULL
               ? 0
               : -1;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *state = PyModule_GetState(module);
    Py_VISIT(state->value_error);
    Py_VISIT(state->corrupted_error);
    Py_VISIT(state->not_initialized_error);
    Py_VISIT(state->shut_down_error);
    Py_VISIT(state->error);
    Py_VISIT(state->ring_type);
    Py_VISIT(state->loan_type);
    Py_VISIT(state->reservation_type);
    Py_VISIT(state->record_type);
    Py_VISIT(state->queue_base_type);
    Py_VISIT(state->coroutine_type);
    Py_VISIT(state->lease_type);
    Py_VISIT(state->nothing);
    return 0;
}

static int module_clear(PyObject *module)
{
    module_state *state = PyModule_GetState(module);
    Py_CLEAR(state->value_error);
    Py_CLEAR(state->corrupted_error);
    Py_CLEAR(state->not_initialized_error);
    Py_CLEAR(state->shut_down_error);
    Py_CLEAR(state->error);
    Py_CLEAR(state->ring_type);
    Py_CLEAR(state->loan_type);
    Py_CLEAR(state->reservation_type);
    Py_CLEAR(state->record_type);
    Py_CLEAR(state->queue_base_type);
    Py_CLEAR(state->coroutine_type);
    Py_CLEAR(state->lease_type);
    for (size_t i = 0; i < SLOW_METHODS; i++) {
        Py_CLEAR(state->slow_names[i]);
    }
    Py_CLEAR(state->nothing);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "shmqueue.engine.native._core",
    .m_doc = "The native engine. See layout.h.",
    .m_size = sizeof(module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module_def); }
