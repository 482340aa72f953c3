import { el, post, sentence } from './api.js'

export function showLogin(view, done) {
  document.title = 'Head2Head · Log in'
  const wrong = el('p', { class: 'notice', role: 'alert', hidden: true })
  const password = el('input', { type: 'password', autocomplete: 'current-password', required: true, id: 'password' })
  const form = el('form', { class: 'card narrow' },
    el('h1', {}, 'Log in'),
    el('p', { class: 'lead' }, 'This page is open to other machines. The password is the one that its server was started with.'),
    el('label', { class: 'field' }, el('span', {}, 'Password'), password),
    wrong,
    el('button', { class: 'primary', type: 'submit' }, 'Log in'))
  form.addEventListener('submit', async e => {
    e.preventDefault()
    try {
      await post('/api/login', { password: password.value })
      done()
    } catch (error) {
      wrong.textContent = sentence(error.message)
      wrong.hidden = false
      password.select()
    }
  })
  view.replaceChildren(form)
  password.focus()
}
