/* python_coroutine.c: the coroutines put() and get() of an event loop's queue, without a Python frame where they succeed
 * at once.
 *
 * In the class is a CoroutineMethod in the place of an `async def`, which it looks like, for it has that function's
 * attributes.  Calling it makes a Coroutine.  When that is awaited, it makes one attempt on the Ring of its queue, which
 * waits for nothing.  Where it does not succeed, the coroutine that the function returns takes its place.
 */
#include "python_ring.h"

#include <structmember.h>

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *function;
    PyTypeObject *coroutine_type, *queue_base_type;
    bool is_put;
} MethodObject;

enum phase {
    NEW,
    DELEGATED, /* to the function's coroutine */
    RUNNING,   /* a step is being made; its caller cannot make another one */
    DONE,
};

typedef struct {
    PyObject_HEAD
    MethodObject *method;
    PyObject *queue;
    PyObject *item;  /* for put(); else NULL */
    PyObject *other; /* the function's coroutine */
    enum phase phase;
} CoroutineObject;

/* ---- the type Coroutine ---- */

/* A new coroutine of the function; NULL: an exception is set. */
static PyObject *call_function(CoroutineObject *self)
{
    PyObject *arguments[] = {self->queue, self->item};
    return PyObject_Vectorcall(self->method->function, arguments, self->item != NULL ? 2 : 1, NULL);
}

/* One attempt, as the queue classes make it.  False: the function has to do it. */
static bool try_at_once(CoroutineObject *self, PyObject **result)
{
    if (self->item == NULL) {
        return queue_get_at_once(self->queue, result);
    }
    return queue_put_at_once(self->queue, self->item, result);
}

/* For one step: the phase from before it, and the function's coroutine if it has taken over. */
static enum phase enter_step(CoroutineObject *self, PyObject **other)
{
    enum phase phase;
    ALONE_BEGIN(self);
    phase = self->phase;
    *other = phase == DELEGATED ? Py_NewRef(self->other) : NULL;
    if (phase == NEW || phase == DELEGATED) {
        self->phase = RUNNING;
    }
    ALONE_END();
    return phase;
}

/* After a step.  `other`: goes on when the next one is made; NULL: the coroutine is done. */
static void leave_step(CoroutineObject *self, PyObject *other)
{
    PyObject *before;
    ALONE_BEGIN(self);
    before = self->other;
    self->other = Py_XNewRef(other);
    self->phase = other != NULL ? DELEGATED : DONE;
    ALONE_END();
    Py_XDECREF(before);
}

/* Why a coroutine in this phase makes no step. */
static void raise_unusable(enum phase phase)
{
    if (phase == RUNNING) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    } else {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    }
}

static PySendResult Coroutine_step(CoroutineObject *self, PyObject *value, PyObject **result)
{
    PyObject *other;
    *result = NULL;
    if (self->phase == NEW && value != NULL && value != Py_None) {
        PyErr_SetString(PyExc_TypeError, "can't send non-None value to a just-started coroutine");
        return PYGEN_ERROR;
    }
    enum phase phase = enter_step(self, &other);
    if (phase == RUNNING || phase == DONE) {
        raise_unusable(phase);
        return PYGEN_ERROR;
    }
    PySendResult status = PYGEN_ERROR;
    if (phase == NEW && try_at_once(self, result)) {
        status = *result != NULL ? PYGEN_RETURN : PYGEN_ERROR;
    } else if (phase == DELEGATED || (other = call_function(self)) != NULL) {
        status = PyIter_Send(other, value != NULL ? value : Py_None, result);
    }
    leave_step(self, status == PYGEN_NEXT ? other : NULL);
    Py_XDECREF(other);
    return status;
}

static PyObject *Coroutine_send(CoroutineObject *self, PyObject *value)
{
    PyObject *result;
    PySendResult status = Coroutine_step(self, value, &result);
    if (status == PYGEN_RETURN) {
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
        Py_CLEAR(result);
        if (stop != NULL) {
            PyErr_SetObject(PyExc_StopIteration, stop);
            Py_DECREF(stop);
        }
    }
    return result;
}

static PyObject *Coroutine_next(CoroutineObject *self) { return Coroutine_send(self, Py_None); }

/* throw(type[, value[, traceback]]): nothing is attempted, the function's coroutine does it all. */
static PyObject *Coroutine_throw(CoroutineObject *self, PyObject *args)
{
    PyObject *other;
    enum phase phase = enter_step(self, &other);
    if (phase == RUNNING || phase == DONE) {
        raise_unusable(phase);
        return NULL;
    }
    other = phase == NEW ? call_function(self) : other;
    PyObject *throw = other != NULL ? PyObject_GetAttrString(other, "throw") : NULL;
    PyObject *result = throw != NULL ? PyObject_CallObject(throw, args) : NULL;
    leave_step(self, result != NULL ? other : NULL);
    Py_XDECREF(throw);
    Py_XDECREF(other);
    return result;
}

static PyObject *Coroutine_close(CoroutineObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *other;
    enum phase phase = enter_step(self, &other);
    if (phase == RUNNING) {
        raise_unusable(phase);
        return NULL;
    }
    PyObject *result = phase == DELEGATED ? PyObject_CallMethod(other, "close", NULL) : Py_NewRef(Py_None);
    leave_step(self, result == NULL ? other : NULL); /* it may have refused to end */
    Py_XDECREF(other);
    return result;
}

static PyObject *Coroutine_await(PyObject *self) { return Py_NewRef(self); }

static PyObject *Coroutine_name(CoroutineObject *self, void *name)
{
    return PyObject_GetAttrString(self->method->function, name);
}

static PyObject *Coroutine_repr(CoroutineObject *self)
{
    PyObject *name = Coroutine_name(self, "__qualname__");
    PyObject *text = name != NULL ? PyUnicode_FromFormat("<coroutine object %S at %p>", name, self) : NULL;
    Py_XDECREF(name);
    return text;
}

static void Coroutine_finalize(CoroutineObject *self)
{
    if (self->phase != NEW) {
        return;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *name = Coroutine_name(self, "__qualname__");
    if (name == NULL || PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%S' was never awaited", name) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(name);
    PyErr_Restore(type, error, traceback);
}

static int Coroutine_traverse(CoroutineObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->method);
    Py_VISIT(self->queue);
    Py_VISIT(self->item);
    Py_VISIT(self->other);
    return 0;
}

static int Coroutine_clear(CoroutineObject *self)
{
    self->phase = DONE;
    Py_CLEAR(self->item);
    Py_CLEAR(self->other);
    return 0; /* a call needs the method and the queue to be there */
}

static void Coroutine_dealloc(CoroutineObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->phase == NEW && PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return; /* the warning's handler has kept it */
    }
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->other);
    Py_XDECREF(self->item);
    Py_DECREF(self->queue);
    Py_DECREF(self->method);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMethodDef Coroutine_methods[] = {
    {"send", (PyCFunction)Coroutine_send, METH_O, "send(value): as of a coroutine."},
    {"throw", (PyCFunction)Coroutine_throw, METH_VARARGS, "throw(type[, value[, traceback]]): as of a coroutine."},
    {"close", (PyCFunction)Coroutine_close, METH_NOARGS, "close(): as of a coroutine."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Coroutine_getset[] = {
    {"__name__", (getter)Coroutine_name, NULL, NULL, "__name__"},
    {"__qualname__", (getter)Coroutine_name, NULL, NULL, "__qualname__"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot Coroutine_slots[] = {
    {Py_tp_doc, "What a CoroutineMethod returns: a coroutine, for asyncio and others that know them by their methods."},
    {Py_tp_dealloc, Coroutine_dealloc},
    {Py_tp_finalize, Coroutine_finalize},
    {Py_tp_traverse, Coroutine_traverse},
    {Py_tp_clear, Coroutine_clear},
    {Py_tp_repr, Coroutine_repr},
    {Py_tp_iternext, Coroutine_next},
    {Py_am_await, Coroutine_await},
    {Py_am_send, Coroutine_step},
    {Py_tp_methods, Coroutine_methods},
    {Py_tp_getset, Coroutine_getset},
    {0, NULL},
};

PyType_Spec Coroutine_spec = {
    .name = "shmqueue.engine.native._core.Coroutine",
    .basicsize = sizeof(CoroutineObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = Coroutine_slots,
};

/* ---- the type CoroutineMethod ---- */

static PyObject *Method_call(MethodObject *self, PyObject *const *args, size_t count, PyObject *keywords)
{
    Py_ssize_t given = PyVectorcall_NARGS(count);
    if (keywords != NULL || given != 1 + self->is_put || !PyObject_TypeCheck(args[0], self->queue_base_type)) {
        return PyObject_Vectorcall(self->function, args, count, keywords);
    }
    CoroutineObject *coroutine = PyObject_GC_New(CoroutineObject, self->coroutine_type);
    if (coroutine != NULL) {
        coroutine->method = (MethodObject *)Py_NewRef(self);
        coroutine->queue = Py_NewRef(args[0]);
        coroutine->item = self->is_put ? Py_NewRef(args[1]) : NULL;
        coroutine->other = NULL;
        coroutine->phase = NEW;
        PyObject_GC_Track(coroutine);
    }
    return (PyObject *)coroutine;
}

static PyObject *Method_get(PyObject *self, PyObject *object, PyObject *Py_UNUSED(type))
{
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

/* All that is asked of it is asked of the function, so that it passes for one. */
static PyObject *Method_getattro(MethodObject *self, PyObject *name)
{
    if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, "__class__") == 0) {
        return PyObject_GenericGetAttr((PyObject *)self, name);
    }
    return PyObject_GetAttr(self->function, name);
}

static PyObject *Method_repr(MethodObject *self) { return PyObject_Repr(self->function); }

static PyObject *Method_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(keywords))
{
    PyObject *function;
    int is_put;
    module_state *state = PyType_GetModuleState(type);
    if (!PyArg_ParseTuple(args, "O!p:CoroutineMethod", &PyFunction_Type, &function, &is_put)) {
        return NULL;
    }
    MethodObject *self = (MethodObject *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->call = (vectorcallfunc)Method_call;
        self->function = Py_NewRef(function);
        self->coroutine_type = (PyTypeObject *)Py_NewRef(state->coroutine_type);
        self->queue_base_type = (PyTypeObject *)Py_NewRef(state->queue_base_type);
        self->is_put = is_put;
    }
    return (PyObject *)self;
}

static int Method_traverse(MethodObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->function);
    Py_VISIT(self->coroutine_type);
    Py_VISIT(self->queue_base_type);
    return 0;
}

static void Method_dealloc(MethodObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->function);
    Py_XDECREF(self->coroutine_type);
    Py_XDECREF(self->queue_base_type);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef Method_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(MethodObject, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot Method_slots[] = {
    {Py_tp_doc, "CoroutineMethod(function, is_put): stands for an `async def` in a class; see shmqueue.fast_paths."},
    {Py_tp_new, Method_new},
    {Py_tp_dealloc, Method_dealloc},
    {Py_tp_traverse, Method_traverse},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, Method_get},
    {Py_tp_getattro, Method_getattro},
    {Py_tp_repr, Method_repr},
    {Py_tp_members, Method_members},
    {0, NULL},
};

PyType_Spec CoroutineMethod_spec = {
    .name = "shmqueue.engine.native._core.CoroutineMethod",
    .basicsize = sizeof(MethodObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_METHOD_DESCRIPTOR |
             Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = Method_slots,
};
