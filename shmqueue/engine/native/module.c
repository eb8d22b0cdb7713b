/* module.c: the module and what it keeps. */
#include "python_ring.h"

#include "open.h"

static PyObject *core_data_size(PyObject *module, PyObject *args)
{
    unsigned long long initial, capacity;
    if (!PyArg_ParseTuple(args, "KK:data_size", &initial, &capacity)) {
        return NULL;
    }
    uint64_t size = ring_data_size(initial, capacity);
    if (size == 0 || size > (uint64_t)PY_SSIZE_T_MAX - LAYOUT_HEADER_SIZE) {
        module_state *state = PyModule_GetState(module);
        PyErr_Format(state->value_error, "there is no queue that grows from %llu to %llu bytes", initial, capacity);
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(size);
}

static PyObject *core_marks_dead_owners(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    bool is_marked = false;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = lock_is_marked(&is_marked);
    Py_END_ALLOW_THREADS
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(is_marked);
}

static PyMethodDef module_methods[] = {
    {"data_size", core_data_size, METH_VARARGS, "data_size(initial, capacity): see shmqueue.engine.data_size."},
    {"marks_dead_owners", core_marks_dead_owners, METH_NOARGS, "marks_dead_owners(): see shmqueue.engine."},
    {"lease_types", core_lease_types, METH_O, "lease_types(base): makes the types of what Ring.lease() returns; see shmqueue.leases."},
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
    state->not_initialized_error = PyObject_GetAttrString(exceptions, "ShmQueueClosedError");
    state->shut_down_error = PyObject_GetAttrString(exceptions, "ShmQueueShutDown");
    state->no_space_error = PyObject_GetAttrString(exceptions, "ShmQueueNoSpaceError");
    state->error = PyObject_GetAttrString(exceptions, "ShmQueueError");
    Py_DECREF(exceptions);
    if (state->value_error == NULL || state->corrupted_error == NULL || state->not_initialized_error == NULL ||
        state->shut_down_error == NULL || state->no_space_error == NULL || state->error == NULL) {
        return -1;
    }
    int error = os_init();
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
    Py_VISIT(state->no_space_error);
    Py_VISIT(state->error);
    Py_VISIT(state->ring_type);
    Py_VISIT(state->loan_type);
    Py_VISIT(state->reservation_type);
    Py_VISIT(state->record_type);
    Py_VISIT(state->queue_base_type);
    Py_VISIT(state->coroutine_type);
    Py_VISIT(state->lease_type);
    Py_VISIT(state->unloaded_lease_type);
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
    Py_CLEAR(state->no_space_error);
    Py_CLEAR(state->error);
    Py_CLEAR(state->ring_type);
    Py_CLEAR(state->loan_type);
    Py_CLEAR(state->reservation_type);
    Py_CLEAR(state->record_type);
    Py_CLEAR(state->queue_base_type);
    Py_CLEAR(state->coroutine_type);
    lease_free_spare(state);
    Py_CLEAR(state->lease_type);
    Py_CLEAR(state->unloaded_lease_type);
    for (size_t i = 0; i < SLOW_METHODS; i++) {
        Py_CLEAR(state->slow_names[i]);
    }
    Py_CLEAR(state->nothing);
    return 0;
}

static void module_free(void *module) { (void)module_clear((PyObject *)module); }

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
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module_def); }
