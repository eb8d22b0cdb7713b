/* python_ring.c: the type Ring: opening, closing, and its table of methods. */
#include "python_ring.h"

#include <fcntl.h>
#include <structmember.h>
#include <sys/mman.h>

#include "open.h"

#define RETURN_PATIENCE_NS INT64_C(1000000000) /* for the lock, at the end of a handle that has leases */

/* ---- opening ---- */

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
    self->state = PyType_GetModuleState(type);
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

/* ---- closing ---- */

/* Unmaps the segment, when it is not used any more. */
static void unmap(RingObject *self)
{
    reservations_forget_left(self);
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

bool descriptor_is_true(RingObject *self)
{
    bool is_true = true;
    if (self->descriptor != NO_DESCRIPTOR) {
        ALONE_BEGIN(self);
        if (is_usable(self)) {
            is_true = self->descriptor == (ring_has_something(&self->ring) ? READABLE : NOT_READABLE);
        }
        ALONE_END();
    }
    return is_true;
}

bool call_look(PyObject *look)
{
    Py_INCREF(look); /* it may run any code */
    PyObject *result = PyObject_CallNoArgs(look);
    Py_DECREF(look);
    if (result == NULL && (PyErr_ExceptionMatches(PyExc_RecursionError) || PyErr_ExceptionMatches(PyExc_MemoryError))) {
        PyErr_Clear();
        return true;
    }
    Py_XDECREF(result);
    return result != NULL;
}

void unmap_if_unused(RingObject *ring)
{
    forget_others_calls(ring);
    if (ring->closing && ring->closers == 0 && ring->views == 0 && atomic_load(&ring->users) == 0) {
        unmap(ring);
    }
}

void let_mapping_go(RingObject *ring)
{
    ring->views--;
    unmap_if_unused(ring);
}

static bool is_finalizing(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

static struct patience return_patience(void)
{
    return (struct patience){.for_lock = true, .deadline = monotonic_ns() + RETURN_PATIENCE_NS};
}

/* When no call is in flight any more: one that was may have taken an item. */
static void give_back_all(RingObject *self)
{
    if (self->left != NULL && self->memory != NULL && !ring_is_corrupted(&self->ring)) {
        reservations_end_left(self, return_patience());
    }
    if (self->loans > 0 && self->memory != NULL && !ring_is_corrupted(&self->ring)) {
        struct patience patience = return_patience();
        self->loans = 0;
        WITHOUT_GIL(self, (void)ring_return_all(&self->ring, patience));
    }
}

/* Waits for the calls in flight.  False: their threads have stopped for good, so the memory stays mapped. */
static bool wait_until_idle(RingObject *self)
{
    for (uint32_t users; (users = atomic_load(&self->users)) != 0;) {
        if (is_finalizing()) {
            return false;
        }
        Py_BEGIN_ALLOW_THREADS
        futex_wait(&self->users, users, WAIT_FOREVER);
        Py_END_ALLOW_THREADS
    }
    return true;
}

static PyObject *Ring_close(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    if (self->memory == NULL) {
        Py_RETURN_NONE;
    }
    if (!self->closing && !ring_is_corrupted(&self->ring)) {
        WITHOUT_GIL(self, ring_trim(&self->ring, true));
    }
    self->closing = true;
    enter(self); /* also forgets calls of the parent after a fork */
    atomic_fetch_sub(&self->users, 1);
    ring_interrupt_all(&self->ring);
    self->closers++;
    if (wait_until_idle(self)) {
        give_back_all(self);
        (void)wait_until_idle(self); /* a lease may have been dropped meanwhile, by another thread */
    }
    self->closers--;
    unmap_if_unused(self);
    Py_RETURN_NONE;
}

static void Ring_dealloc(RingObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    end_left(self);
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

/* ---- the type ---- */

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
ALONE_PLAIN(Ring_prefault, RingObject, self)
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
    PLAIN(prefault, METH_NOARGS),
    PLAIN(close, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Ring_members[] = {
    {"fast_puts", T_BOOL, offsetof(RingObject, fast_puts), 0, "Whether put() of a QueueBase may put."},
    {"descriptor", T_UBYTE, offsetof(RingObject, descriptor), 0, "What the queue's descriptor says: see shmqueue.watching."},
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

PyType_Spec Ring_spec = {
    .name = "shmqueue.engine.native._core.Ring",
    .basicsize = sizeof(RingObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Ring_slots,
};
