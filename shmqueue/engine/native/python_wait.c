/* python_wait.c: the type Bell, on which one thread waits for many rings.  See shmqueue/readiness.py. */
#include "python_ring.h"
#include "wait_any.h"

typedef struct {
    PyObject_HEAD
    _Atomic uint32_t rung; /* moves with each ring(): the waiting thread returns, or does not begin to wait */
} BellObject;

static bool kind_from(PyObject *number, enum wish_kind *kind)
{
    unsigned long value = PyLong_AsUnsignedLong(number);
    if (value == (unsigned long)-1 && PyErr_Occurred()) {
        return false;
    }
    if (value >= WISH_KINDS) {
        PyErr_Format(PyExc_ValueError, "there is no wish of the kind %lu", value);
        return false;
    }
    *kind = (enum wish_kind)value;
    return true;
}

PyObject *Ring_moment(RingObject *self, PyObject *number)
{
    enum wish_kind kind;
    if (!kind_from(number, &kind) || !is_open(self)) {
        return NULL;
    }
    return PyLong_FromUnsignedLong(ring_moment(&self->ring, kind));
}

PyObject *Ring_pass_on(RingObject *self, PyObject *Py_UNUSED(ignored))
{
    if (!is_open(self)) {
        return NULL;
    }
    ring_pass_on(&self->ring);
    Py_RETURN_NONE;
}

/* A wish (ring, kind, moment).  The rings stay alive with the tuple that holds them.  False: an exception is set. */
static bool wish_from(PyObject *entry, PyTypeObject *ring_type, struct wish *wish, RingObject **ring)
{
    if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) != 3 || !Py_IS_TYPE(PyTuple_GET_ITEM(entry, 0), ring_type)) {
        PyErr_SetString(PyExc_TypeError, "a wish is a tuple (ring, kind, moment)");
        return false;
    }
    unsigned long seen = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(entry, 2));
    if ((seen == (unsigned long)-1 && PyErr_Occurred()) || !kind_from(PyTuple_GET_ITEM(entry, 1), &wish->kind)) {
        return false;
    }
    *ring = (RingObject *)PyTuple_GET_ITEM(entry, 0);
    wish->ring = &(*ring)->ring;
    wish->seen = (uint32_t)seen;
    wish->granted = false;
    return true;
}

static PyObject *granted_of(const struct wish *wishes, const bool *is_closed, Py_ssize_t count)
{
    PyObject *granted = PyList_New(0);
    Py_ssize_t at = 0;
    for (Py_ssize_t i = 0; granted != NULL && i < count; i++) {
        bool is = is_closed[i] || wishes[at].granted;
        at += !is_closed[i];
        PyObject *number = is ? PyLong_FromSsize_t(i) : NULL;
        if (is && (number == NULL || PyList_Append(granted, number) < 0)) {
            Py_CLEAR(granted);
        }
        Py_XDECREF(number);
    }
    return granted;
}

/* wait(wishes, rung, seconds): the numbers of the wishes that are granted, perhaps none. */
static PyObject *Bell_wait(BellObject *self, PyObject *args)
{
    PyObject *entries;
    unsigned int rung;
    double seconds;
    module_state *state = PyType_GetModuleState(Py_TYPE(self));
    if (!PyArg_ParseTuple(args, "O!Id:wait", &PyTuple_Type, &entries, &rung, &seconds)) {
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(entries), open = 0;
    struct wish *wishes = PyMem_Calloc((size_t)count + 1, sizeof *wishes);
    RingObject **rings = PyMem_Calloc((size_t)count + 1, sizeof *rings);
    bool *is_closed = PyMem_Calloc((size_t)count + 1, sizeof *is_closed);
    PyObject *granted = NULL;
    if (wishes == NULL || rings == NULL || is_closed == NULL) {
        PyErr_NoMemory();
        goto out;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!wish_from(PyTuple_GET_ITEM(entries, i), state->ring_type, &wishes[open], &rings[open])) {
            goto out;
        }
        is_closed[i] = rings[open]->memory == NULL || rings[open]->closing;
        open += !is_closed[i];
    }
    for (Py_ssize_t i = 0; i < open; i++) {
        enter(rings[i]);
    }
    int64_t deadline = open < count ? 0 : monotonic_ns() + (int64_t)(seconds < 1000 ? seconds * 1e9 : 1e12);
    Py_BEGIN_ALLOW_THREADS
    ring_wait_any(wishes, (size_t)open, &self->rung, rung, deadline);
    Py_END_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < open; i++) {
        leave(rings[i]);
    }
    granted = granted_of(wishes, is_closed, count);
out:
    PyMem_Free(wishes);
    PyMem_Free(rings);
    PyMem_Free(is_closed);
    return granted;
}

static PyObject *Bell_ring(BellObject *self, PyObject *Py_UNUSED(ignored))
{
    atomic_fetch_add(&self->rung, 1);
    syscall(SYS_futex, &self->rung, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
    Py_RETURN_NONE;
}

static PyObject *Bell_get_rung(BellObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLong(atomic_load(&self->rung));
}

static void Bell_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef Bell_methods[] = {
    {"wait", (PyCFunction)Bell_wait, METH_VARARGS, NULL},
    {"ring", (PyCFunction)Bell_ring, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Bell_getset[] = {
    {"rung", (getter)Bell_get_rung, NULL, "A number that each ring() changes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot Bell_slots[] = {
    {Py_tp_doc, "Bell(): one thread waits on it for many rings; see shmqueue.readiness."},
    {Py_tp_dealloc, Bell_dealloc},
    {Py_tp_methods, Bell_methods},
    {Py_tp_getset, Bell_getset},
    {0, NULL},
};

PyType_Spec Bell_spec = {
    .name = "shmqueue.engine.native._core.Bell",
    .basicsize = sizeof(BellObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Bell_slots,
};
