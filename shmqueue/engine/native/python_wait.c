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
static bool wish_from(PyObject *entry, PyTypeObject *ring_type, struct wish *wish)
{
    if (!PyTuple_Check(entry) || PyTuple_GET_SIZE(entry) != 3 || !Py_IS_TYPE(PyTuple_GET_ITEM(entry, 0), ring_type)) {
        PyErr_SetString(PyExc_TypeError, "a wish is a tuple (ring, kind, moment)");
        return false;
    }
    unsigned long seen = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(entry, 2));
    if ((seen == (unsigned long)-1 && PyErr_Occurred()) || !kind_from(PyTuple_GET_ITEM(entry, 1), &wish->kind)) {
        return false;
    }
    wish->seen = (uint32_t)seen;
    return true;
}

static RingObject *ring_of_entry(PyObject *entries, Py_ssize_t number)
{
    return (RingObject *)PyTuple_GET_ITEM(PyTuple_GET_ITEM(entries, number), 0);
}

/* Counts a call that runs without the GIL.  False: the ring is closed. */
static bool enter_if_open(RingObject *ring)
{
    bool is_open;
    ALONE_BEGIN(ring);
    is_open = is_usable(ring);
    if (is_open) {
        enter(ring);
    }
    ALONE_END();
    return is_open;
}

/* Waits for those of the wishes whose rings are open, which come first afterwards.  Returns how many these are;
 * numbers[i] says which of the entries the i-th is.  One whose ring is closed ends the wait at once. */
static Py_ssize_t wait_for(PyObject *entries, struct wish *wishes, Py_ssize_t *numbers, Py_ssize_t count,
                           _Atomic uint32_t *nudge, uint32_t rung, int64_t deadline)
{
    Py_ssize_t open = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (enter_if_open(ring_of_entry(entries, i))) {
            wishes[open] = wishes[i];
            wishes[open].ring = &ring_of_entry(entries, i)->ring;
            numbers[open++] = i;
        }
    }
    Py_BEGIN_ALLOW_THREADS
    ring_wait_any(wishes, (size_t)open, nudge, rung, open < count ? 0 : deadline);
    Py_END_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < open; i++) {
        leave(ring_of_entry(entries, numbers[i]));
    }
    return open;
}

/* The numbers of the entries that are granted, those of closed rings too. */
static PyObject *granted_of(const struct wish *wishes, const Py_ssize_t *numbers, Py_ssize_t open, Py_ssize_t count)
{
    PyObject *granted = PyList_New(0);
    Py_ssize_t at = 0;
    for (Py_ssize_t i = 0; granted != NULL && i < count; i++) {
        bool is_closed = at == open || numbers[at] != i;
        bool is = is_closed || wishes[at].granted;
        at += !is_closed;
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
    PyObject *entries, *granted = NULL;
    unsigned int rung;
    double seconds;
    module_state *state = PyType_GetModuleState(Py_TYPE(self));
    if (!PyArg_ParseTuple(args, "O!Id:wait", &PyTuple_Type, &entries, &rung, &seconds)) {
        return NULL;
    }
    Py_ssize_t count = PyTuple_GET_SIZE(entries);
    struct wish *wishes = PyMem_Calloc((size_t)count + 1, sizeof *wishes);
    Py_ssize_t *numbers = PyMem_Calloc((size_t)count + 1, sizeof *numbers);
    bool is_right = wishes != NULL && numbers != NULL;
    if (!is_right) {
        PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; is_right && i < count; i++) {
        is_right = wish_from(PyTuple_GET_ITEM(entries, i), state->ring_type, &wishes[i]);
    }
    if (is_right) {
        int64_t deadline = monotonic_ns() + (int64_t)(seconds < 1000 ? seconds * 1e9 : 1e12);
        Py_ssize_t open = wait_for(entries, wishes, numbers, count, &self->rung, rung, deadline);
        granted = granted_of(wishes, numbers, open, count);
    }
    PyMem_Free(wishes);
    PyMem_Free(numbers);
    return granted;
}

static PyObject *Bell_ring(BellObject *self, PyObject *Py_UNUSED(ignored))
{
    atomic_fetch_add(&self->rung, 1);
    futex_wake_here(&self->rung);
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
